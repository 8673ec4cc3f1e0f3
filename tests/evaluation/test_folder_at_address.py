"""A folder of restored images at an address."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.data.miniature import picture
from xyscannet.addresses import Address
from xyscannet.errors import InputError, UnavailableError
from xyscannet.evaluation import Folder
from xyscannet.images import read


@dataclass
class Pair:
    name: str
    blur: Address | Path
    sharp: Address | Path | None = None


@pytest.fixture
def box(tmp_path: Path, memory) -> Address:
    for seed, name in enumerate(("a.png", "s/b.png", "t/b.png", "notes.txt", ".hidden.png")):
        path = picture(tmp_path / "one.png", seed=seed)
        memory.put_file(str(path), f"/box/theirs/{name}")
    return Address("memory://box/theirs")


def test_images_are_found_by_the_end_of_their_place_and_fetched(box: Address, tmp_path: Path) -> None:
    at_address = Pair("1", Address("http://host/some%20where/a.png?size=1"))
    pairs = [Pair("x", Address("memory://box/blur/t/b.jpg")), Pair("b", Path("b.png")), at_address]
    folder = pickle.loads(pickle.dumps(Folder(box, pairs)))  # as it goes to a worker
    assert folder.label == "theirs"
    photo, file, seconds = folder.restored(pairs[0])
    assert (file, seconds) == ("memory://box/theirs/t/b.png", None)
    np.testing.assert_array_equal(photo.rgb, read(picture(tmp_path / "again.png", seed=2)).rgb)
    assert folder.find(at_address) == box / "a.png"
    assert Folder(box, [Pair("a", Path("elsewhere/1.png"))]).find(Pair("a", Path())) == box / "a.png"
    alone = Folder(box, [Pair("b", Path("b.png")), Pair("hidden", Path("hidden.png"))])
    with pytest.raises(
        InputError,
        match=r"^memory://box/theirs holds 2 images that may be b: s/b.png, t/b.png; give the folder",
    ):
        alone.find(Pair("b", Path("b.png")))
    with pytest.raises(InputError, match="^memory://box/theirs holds no image of hidden$"):
        alone.find(Pair("hidden", Path("hidden.png")))


def test_what_the_listing_tells_of_the_files_is_its_identity(box: Address, memory, tmp_path: Path) -> None:
    first = Folder(box, []).identity
    memory.pipe_file("/box/theirs/notes.txt", b"other")
    assert Folder(box, []).identity == first
    memory.put_file(str(picture(tmp_path / "other.png", seed=9)), "/box/theirs/a.png")
    assert Folder(box, []).identity != first


def test_no_images(memory) -> None:
    memory.pipe_file("/box/notes.txt", b"")
    with pytest.raises(UnavailableError, match=r"^memory://box holds no images"):
        Folder(Address("memory://box"), [])
    with pytest.raises(UnavailableError, match=r"^memory://gone: there is no such file or folder$"):
        Folder(Address("memory://gone"), [])
