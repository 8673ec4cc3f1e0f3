"""Text files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from xyscannet.errors import InputError


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 under a temporary name in the same folder and move it into place.

    Raises InputError where that is not possible; a file that stood there before is then untouched.
    """
    path, temporary = Path(path), None
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            dir=path.absolute().parent,
            prefix=f".{path.name}.",
            delete=False,
            encoding="utf-8",
            newline="",
        ) as file:
            temporary = file.name
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as failure:
        raise InputError(f"{path}: cannot be written: {failure.strerror or failure}") from None
    finally:
        if temporary is not None:
            os.unlink(temporary)
