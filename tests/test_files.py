"""Text is written whole or not at all."""

from __future__ import annotations

import pytest

from xyscannet.errors import InputError
from xyscannet.files import write_text


def test_text_replaces_text_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "one\n")
    write_text(path, "zwei – ü\n")
    assert path.read_bytes() == "zwei – ü\n".encode()
    assert [each.name for each in path.parent.iterdir()] == ["a.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path / "absent" / "b.txt", "text")
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path, "text")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
