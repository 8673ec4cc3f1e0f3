"""Data sets at addresses are those that the same files on this machine are."""

from __future__ import annotations

import inspect
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.data import miniature
from tests.web import serving
from xyscannet.addresses import Address, place_of
from xyscannet.data import datasets
from xyscannet.data.remote import listing, seen
from xyscannet.data.sets import Dataset
from xyscannet.errors import ConfigError, UnavailableError

LAYOUTS = [
    make
    for name, make in inspect.getmembers(miniature, inspect.isfunction)
    if name.startswith(("gopro", "hide", "realblur", "rwbi"))
]


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files `upload` puts under memory://box; temporary files go to tmp/ beside it."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "box").mkdir()
    return tmp_path / "box"


def upload(memory, box: Path) -> None:
    for path in box.rglob("*"):
        if path.is_file():
            memory.put_file(str(path), f"/box/{path.relative_to(box).as_posix()}")


def at_addresses(found: Dataset, box: Path) -> Dataset:
    """What was found on this machine, as it must be found at memory://box."""

    def address(path: Path | None) -> Address | None:
        return path and Address(f"memory://box/{path.relative_to(box).as_posix()}")

    samples = tuple(
        replace(each, blur=address(each.blur), sharp=address(each.sharp)) for each in found.samples
    )
    problems = tuple(problem.replace(str(box), "memory://box") for problem in found.problems)
    return replace(found, root=address(found.root), samples=samples, problems=problems)


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__)
def test_every_layout_is_recognised(make, memory, box: Path, tmp_path: Path) -> None:
    root = make(box / "RWBI" if make.__name__.startswith("rwbi") else box / "some")
    (root / "test").mkdir(exist_ok=True)
    (root / "test/.hidden.png").touch()
    upload(memory, box)
    address = Address(f"memory://box/{root.name}")
    local = datasets.recognise(root)
    assert seen(datasets.recognise, address) == [at_addresses(each, box) for each in local] and local
    for name in dict.fromkeys(each.name for each in local if each.name in datasets.NAMES):

        def find(folder, name=name):
            return datasets.find(name, folder, "test")

        assert seen(find, address) == at_addresses(find(root), box)
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("place", ["", "test", "train"])
def test_what_lies_beside_the_folder_is_seen(place: str, memory, box: Path) -> None:
    miniature.hide_published(box / "HIDE")
    lists = miniature.realblur_lists(box / "RealBlur")
    upload(memory, box)
    for root in (Path("HIDE", place), Path(lists.name, miniature.SCENES["J"])):
        local = datasets.recognise(box / root)
        found = seen(datasets.recognise, Address(f"memory://box/{root.as_posix()}"))
        assert found == [at_addresses(each, box) for each in local] and local and local[0].samples


def test_two_folders_one_of_them_here(memory, box: Path) -> None:
    miniature.put(box, "blurry/a_blur.png", "blurry/sub/b_blur.png", "blurry/lonely.png")
    miniature.put(box, "truth/a_gt.png", "truth/sub/b_gt.png")
    upload(memory, box)
    there = at_addresses(datasets.pair_folders(box / "blurry", box / "truth"), box)
    found = seen(datasets.pair_folders, *map(Address, ("memory://box/blurry/", "memory://box/truth")))
    assert found == there and found.name == "blurry" and found.root == Address("memory://box/blurry")
    assert found.problems == ("memory://box/blurry/lonely.png has no partner in memory://box/truth",)
    mixed = seen(datasets.pair_folders, box / "blurry", Address("memory://box/truth"))
    assert [each.blur for each in mixed.samples] == [box / "blurry/a_blur.png", box / "blurry/sub/b_blur.png"]
    assert [each.sharp for each in mixed.samples] == [each.sharp for each in there.samples]
    assert mixed.root == box / "blurry"


def test_a_folder_in_an_archive(box: Path) -> None:
    miniature.put(box, "set/test/blur/1.png", "set/test/sharp/1.png", "set/test/blur/lonely 2.png")
    archive = shutil.make_archive(str(box / "all"), "zip", box, "set")

    def inside(place: str) -> Address:
        return Address(f"zip://{place}::{archive}")

    for place in ("set", "set/test"):
        (found,) = seen(datasets.recognise, inside(place))
        assert found.root == inside("set/test") and found.samples[0].blur == inside("set/test/blur/1.png")
        blur, sharp = inside("set/test/blur/lonely 2.png"), inside("set/test/sharp")
        assert found.problems[0] == f"{blur} has no partner in {sharp}"


def test_keys_that_no_file_here_can_have_are_problems(memory, box: Path, tmp_path: Path, monkeypatch) -> None:
    long, up, below = f"set/blur/{'x' * 300}.png", "set/blur/../../../up.png", "set/blur/1.png/2.png"
    keys = [
        f"/box/{key}" for key in ("set/blur/1.png", "set/sharp/1.png", long, up, below, "set/blur/folder/")
    ]
    monkeypatch.setattr(type(memory), "find", lambda self, path, detail: {key: {} for key in keys})
    memory.pipe_file("/box/set/blur/1.png", b"")
    (found,) = seen(datasets.recognise, Address("memory://box/set"))
    assert [each.name for each in found.samples] == ["1"] and len(found.problems) == 3
    for key, reason in (
        (long, "File name too long"),
        (up, "leads out of the folder"),
        (below, "no file here can"),
    ):
        (told,) = [each for each in found.problems if each.startswith(f"memory://box/{key} is left out: ")]
        assert reason in told
    assert not list(tmp_path.rglob("up.png"))


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("memory://box/gone", UnavailableError, "memory://box/gone: there is no such file or folder"),
        ("memory://box/*", ConfigError, "is a pattern"),
        ("nosuch://box", ConfigError, "no such kind of address"),
        ("http://127.0.0.1:9/box", UnavailableError, "http://127.0.0.1:9/box: cannot be reached"),
    ],
)
def test_what_is_not_there(address: str, error: type, words: str, memory) -> None:
    if address.startswith("http"):
        pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    with pytest.raises(error) as told:
        seen(datasets.recognise, Address(address))
    assert words in str(told.value) and "\n" not in str(told.value)


def test_errors_of_recognition_name_the_address(memory, box: Path) -> None:
    miniature.put(box, "a/x.png", "b/y.png")
    upload(memory, box)
    with pytest.raises(
        UnavailableError, match=r"^memory://box/a and memory://box/b hold no pairs: memory://box/a/x"
    ):
        seen(datasets.pair_folders, Address("memory://box/a"), Address("memory://box/b"))


def test_a_full_temporary_folder_is_no_problem_of_a_file(memory, box: Path, monkeypatch) -> None:
    miniature.put(box, "set/blur/x.png", "set/sharp/x.png")
    upload(memory, box)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "touch", full)
    with pytest.raises(UnavailableError, match="temporary folder .* cannot be written: No space left"):
        seen(datasets.recognise, Address("memory://box/set"))


def test_a_missing_package_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(UnavailableError, match="pip install s3fs"):
        seen(datasets.recognise, Address("s3://bucket/set"))


def test_a_web_servers_folder(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    miniature.put(
        tmp_path, "web/my set/blur/a b.png", "web/my set/sharp/a b.png", "web/my set/sharp/100%.png"
    )
    (tmp_path / "web/empty").mkdir()
    (tmp_path / "web/page").mkdir()
    links = [
        "a.png",
        "a.png?size=small",
        "../up.png",
        "./",
        "gone/",
        "?order=date",
        ".hidden.png",
        "mailto:me",
    ]
    miniature.put(tmp_path, "web/twice/blur/a.png", "web/twice/sharp/a.png")
    twice = "".join(f'<a href="{link}">x</a>' for link in links[:2])
    (tmp_path / "web/twice/blur/index.html").write_text(twice)
    (tmp_path / "web/page/index.html").write_text("".join(f'<a href="{link}">x</a>' for link in links))
    with serving(tmp_path / "web") as server:
        (found,) = seen(datasets.recognise, place_of(f"{server}/my%20set"))
        assert [each.name for each in found.samples] == ["a b"] and found.name == "my set"
        assert found.samples[0].blur == Address(f"{server}/my%20set/blur/a%20b.png")
        assert found.problems[0].startswith(f"{server}/my%20set/sharp/100%25.png has no partner")
        with pytest.raises(UnavailableError, match="no page that links to files"):
            listing(Address(f"{server}/empty"))
        listed = [each for each in listing(Address(f"{server}/page")) if each.place.suffix == ".png"]
        assert [str(each.place) for each in listed] == ["a.png", "a.png"]
        assert listed[0].address == Address(f"{server}/page/a.png")
        (found,) = seen(datasets.recognise, Address(f"{server}/twice"))
        assert found.samples[0].blur == Address(f"{server}/twice/blur/a.png")
        shutil.rmtree(tmp_path / "web/my set")
        with pytest.raises(UnavailableError, match="there is no such file or folder"):
            seen(datasets.recognise, place_of(f"{server}/my%20set"))
