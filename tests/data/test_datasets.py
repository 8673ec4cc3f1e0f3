"""Every layout that circulates is recognised from every folder that a user may give, and faults are told."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from tests.data import miniature
from tests.data.miniature import LAYOUTS, facts, put
from xyscannet.data import datasets
from xyscannet.data.datasets import Dataset
from xyscannet.errors import ConfigError, InputError, UnavailableError

EVERY = [(name, layout) for name, layouts in LAYOUTS.items() for layout in layouts]
PAIRED = [(name, layout) for name, layout in EVERY if name != "rwbi"]


def assert_sound(found: Dataset, name: str) -> None:
    fewest, most = miniature.COUNTS[name]
    assert fewest <= len(found.samples) <= most
    names = [sample.name for sample in found.samples]
    assert names == sorted(set(names))
    for sample in found.samples:
        path = PurePosixPath(sample.name)
        assert not path.is_absolute() and not {"..", ".", ""} & set(path.parts)
        assert sample.blur.is_file()
        assert sample.sharp is None if name == "rwbi" else sample.sharp.is_file()
        assert sample.sharp != sample.blur
    assert not facts(found)


@pytest.mark.parametrize(("name", "layout"), EVERY)
def test_every_layout_from_every_folder(name: str, layout: str, tmp_path: Path) -> None:
    for number, folder in enumerate(miniature.FOLDERS[name]):
        home = tmp_path / str(number) / "Datasets" / folder
        LAYOUTS[name][layout](home)
        ways = [home, home.parent, home.parent.parent]
        if (home / "test").is_dir():
            ways.append(home / "test")
        found = [datasets.find(name, way) for way in ways]
        for each in found:
            assert_sound(each, name)
            assert each.name == name and each.split == "test" and each.layout
            assert [sample.name for sample in each.samples] == [sample.name for sample in found[0].samples]
        known = [(each.name, each.split) for each in datasets.recognise(home.parent.parent)]
        assert (name, "test") in known and len(set(known)) == len(known)
        assert {each for each, _ in known} == {name}


@pytest.mark.parametrize(("name", "layout"), PAIRED)
def test_partners_belong_together(name: str, layout: str, tmp_path: Path) -> None:
    home = LAYOUTS[name][layout](tmp_path / miniature.FOLDERS[name][0])
    found = datasets.find(name, home)
    for sample in found.samples:
        number = "".join(filter(str.isdigit, sample.blur.stem))
        assert number == "".join(filter(str.isdigit, sample.sharp.stem))
        if "SEQUENCE" in found.layout or "list" in found.layout:
            assert sample.blur.parent.parent == sample.sharp.parent.parent


def test_names_and_groups(tmp_path: Path) -> None:
    def told(name: str, home: Path) -> list[tuple[str, str]]:
        return [(sample.name, sample.group) for sample in datasets.find(name, home).samples]

    assert told("gopro", miniature.gopro_sequences(tmp_path / "a/GoPro")) == [
        ("GOPR0384_11_00/000001", "GOPR0384_11_00"),
        ("GOPR0384_11_00/000002", "GOPR0384_11_00"),
        ("GOPR0385_11_01/000001", "GOPR0385_11_01"),
    ]
    assert told("gopro", miniature.gopro_input_target(tmp_path / "b/GoPro"))[0] == (
        "GOPR0384_11_00-000001",
        "GOPR0384_11_00",
    )
    assert told("hide", miniature.hide_published(tmp_path / "HIDE")) == [
        ("test-close-ups/1fromGOPR1096.MP4", "test-close-ups"),
        ("test-close-ups/7fromGOPR1096.MP4", "test-close-ups"),
        ("test-long-shot/10fromGOPR0950", "test-long-shot"),
    ]
    lists = miniature.realblur_lists(tmp_path / "RealBlur")
    assert told("realblur-j", lists) == [("scene002/blur_1", "scene002"), ("scene002/blur_2", "scene002")]
    assert told("realblur-r", miniature.realblur_ab(tmp_path / "RealBlur_R"))[0] == (
        "scene002_blur_1",
        "scene002",
    )
    assert told("rwbi", miniature.rwbi_bursts(tmp_path / "RWBI"))[2] == ("2/0001", "2")


def test_training_splits(tmp_path: Path) -> None:
    assert len(datasets.find("gopro", miniature.gopro_sequences(tmp_path / "GoPro"), "train").samples) == 1
    hide = datasets.find("hide", miniature.hide_published(tmp_path / "HIDE"), "train")
    assert [sample.name for sample in hide.samples] == ["2fromGOPR0950"] and hide.expected == 6397
    assert not facts(hide)
    realblur = datasets.find("realblur-j", miniature.realblur_lists(tmp_path / "RealBlur"), "train")
    assert [sample.name for sample in realblur.samples] == ["scene001/blur_1"] and realblur.expected == 3758
    miniature.rwbi_flat(tmp_path / "RWBI")
    with pytest.raises(UnavailableError, match="no train split"):
        datasets.find("rwbi", tmp_path, "train")


def test_split_above_the_set(tmp_path: Path) -> None:
    """Datasets/test/{GoPro,HIDE,RealBlur_J}/{input,target}, and RealBlur/test/RealBlur_R/{input,target}."""
    for name, stem in (
        ("GoPro", "GOPR0384_11_00-000001"),
        ("HIDE", "1fromGOPR1096"),
        ("RealBlur_J", "scene001-1"),
    ):
        put(tmp_path / "Datasets/test" / name, f"input/{stem}.png", f"target/{stem}.png")
    put(tmp_path / "RealBlur/test/RealBlur_R", "input/scene001-1.png", "target/scene001-1.png")
    for name in ("gopro", "hide", "realblur-j", "realblur-r"):
        found = datasets.find(name, tmp_path)
        assert len(found.samples) == 1 and found.split == "test" and not facts(found)
    given = tmp_path / "Datasets/test/RealBlur_J"
    assert datasets.find("realblur-j", given).root == given
    with pytest.raises(UnavailableError, match="holds RealBlur-J test"):
        datasets.find("realblur-r", given)


def test_blur_gamma(tmp_path: Path) -> None:
    home = miniature.gopro_sequences(tmp_path / "GoPro")
    assert {sample.blur.parent.name for sample in datasets.find("gopro", home).samples} == {"blur"}
    gamma = datasets.find("gopro", home, gamma=True)
    assert {sample.blur.parent.name for sample in gamma.samples} == {"blur_gamma"} and len(gamma.samples) == 3
    with pytest.raises(ConfigError, match="blur_gamma"):
        datasets.find("hide", home, gamma=True)


def test_scenes_of_realblur_given_directly(tmp_path: Path) -> None:
    scenes = miniature.realblur_lists(tmp_path / "RealBlur") / miniature.SCENES["J"]
    assert len(datasets.find("realblur-j", scenes).samples) == 2
    assert [each.split for each in datasets.recognise(scenes)] == ["test", "train"]
    for path in scenes.parent.glob("*.txt"):
        path.unlink()
    with pytest.raises(UnavailableError, match="list"):
        datasets.find("realblur-j", scenes)
    (every,) = datasets.recognise(scenes.parent)
    assert every.split == "all" and len(every.samples) == 3 and "list file" in every.problems[0]


def test_both_halves_of_realblur(tmp_path: Path) -> None:
    for letter in "JR":
        miniature.realblur_lists(tmp_path / "RealBlur", letter)
    for letter in "JR":
        found = datasets.find(f"realblur-{letter.lower()}", tmp_path)
        assert all(miniature.SCENES[letter] in sample.blur.parts for sample in found.samples)
    assert len(datasets.recognise(tmp_path)) == 4


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XYSCAN_DATA", raising=False)
    with pytest.raises(UnavailableError, match="XYSCAN_DATA is not set"):
        datasets.find("gopro")
    miniature.gopro_sequences(tmp_path / "a/GoPro")
    miniature.hide_published(tmp_path / "b/HIDE_dataset")
    folders = [tmp_path / "absent", tmp_path / "a", tmp_path / "b"]
    monkeypatch.setenv("XYSCAN_DATA", os.pathsep.join(map(str, folders)))
    assert datasets.find("gopro").name == "gopro" and datasets.find("hide").name == "hide"
    with pytest.raises(UnavailableError) as error:
        datasets.find("realblur-r")
    told = str(error.value)
    assert all(str(folder) in told for folder in folders)
    assert "cg.postech.ac.kr" in told and "RealBlur_R_{test,train}_list.txt" in told and "HIDE test" in told


def test_unnamed_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is given is believed unless its contents say otherwise; one of XYSCAN_DATA is not."""
    home = put(tmp_path / "pairs", "test/input/a.png", "test/target/a.png")
    for name in ("gopro", "hide", "realblur-j"):
        assert datasets.find(name, home).name == name
    monkeypatch.setenv("XYSCAN_DATA", str(home))
    with pytest.raises(UnavailableError, match="holds pairs test"):
        datasets.find("gopro")
    with pytest.raises(UnavailableError, match="holds GoPro test"):
        datasets.find("hide", miniature.gopro_sequences(tmp_path / "a"))
    with pytest.raises(UnavailableError, match="RealBlur test"):
        datasets.find("gopro", miniature.realblur_ab(tmp_path / "b"))
    assert datasets.find("realblur-r", tmp_path / "b").title == "RealBlur-R"
    stray = put(tmp_path / "c", "mine/blur/1.png", "mine/sharp/1.png")
    with pytest.raises(UnavailableError, match="was not found"):
        datasets.find("gopro", stray)
    assert len(datasets.find("rwbi", put(tmp_path / "d", "b1/1.png", "b2/1.png")).samples) == 2
    with pytest.raises(UnavailableError, match="holds GoPro test"):
        datasets.find("rwbi", tmp_path / "a")


def test_names_of_another_set_are_told(tmp_path: Path) -> None:
    put(tmp_path / "HIDE/test", "blur/GOPR0384_11_00-000001.png", "sharp/GOPR0384_11_00-000001.png")
    assert any("named like those of GoPro" in problem for problem in datasets.find("hide", tmp_path).problems)


def test_split_is_told_by_the_count(tmp_path: Path) -> None:
    for index in range(2103):
        for role in ("blur", "sharp"):
            path = tmp_path / "GoPro" / role / f"{index:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    found = datasets.find("gopro", tmp_path, "train")
    assert len(found.samples) == found.expected == 2103 and not found.problems
    (tmp_path / "GoPro/blur/0000.png").unlink()
    found = datasets.find("gopro", tmp_path)
    assert len(found.samples) != found.expected == 1111
    assert "2102 samples; the test split has 1111" in found.problems[0]
    assert "0000.png has no partner" in found.problems[1]


@pytest.mark.parametrize(
    ("name", "layout", "gone"),
    [
        ("gopro", "sequences", "test/GOPR0384_11_00/sharp/000001.png"),
        ("gopro", "sequences", "test/GOPR0384_11_00/blur/000001.png"),
        ("gopro", "input-target", "test/target/GOPR0384_11_00-000001.png"),
        ("gopro", "ab", "test/testA/GOPR0384_11_00-000001.png"),
        ("hide", "published", "GT/7fromGOPR1096.MP4.png"),
        ("hide", "blur-sharp", "test/sharp/1fromGOPR1096.MP4.png"),
        ("realblur-j", "lists", f"{miniature.SCENES['J']}/scene002/gt/gt_2.png"),
        ("realblur-j", "lists", f"{miniature.SCENES['J']}/scene002/blur/blur_1.png"),
        ("realblur-j", "ab", "test/testB/scene002_gt_2.png"),
    ],
)
def test_missing_partner_is_told(name: str, layout: str, gone: str, tmp_path: Path) -> None:
    home = LAYOUTS[name][layout](tmp_path / miniature.FOLDERS[name][0])
    whole = datasets.find(name, home)
    (home / gone).unlink()
    found = datasets.find(name, home)
    assert len(found.samples) == len(whole.samples) - 1
    (problem,) = facts(found)
    assert "no partner" in problem or "is no file" in problem


def test_missing_folders_are_told(tmp_path: Path) -> None:
    home = miniature.gopro_sequences(tmp_path / "GoPro")
    for path in (home / "test/GOPR0385_11_01/sharp").iterdir():
        path.unlink()
    (home / "test/GOPR0385_11_01/sharp").rmdir()
    (problem,) = facts(datasets.find("gopro", home))
    assert "GOPR0385_11_01 holds no folder sharp" in problem
    hide = miniature.hide_published(tmp_path / "HIDE")
    (hide / "test/test-long-shot/10fromGOPR0950.png").unlink()
    (hide / "test/test-long-shot").rmdir()
    (problem,) = facts(datasets.find("hide", hide))
    assert "holds no folder test-long-shot" in problem
    (hide / "GT").rename(hide / "sharp-ones")
    with pytest.raises(UnavailableError, match="no folder GT"):
        datasets.find("hide", hide)


def test_two_layouts_at_once(tmp_path: Path) -> None:
    home = miniature.gopro_input_target(miniature.gopro_sequences(tmp_path / "GoPro"))
    with pytest.raises(ConfigError, match=r"more than once.*input,target.*SEQUENCE"):
        datasets.find("gopro", tmp_path)
    sets = datasets.recognise(home)
    assert len(sets) == 4 and all(any("lies also in" in fact for fact in each.problems) for each in sets)
    miniature.hide_published(tmp_path / "HIDE")
    miniature.hide_blur_sharp(tmp_path / "Datasets/hide")
    with pytest.raises(ConfigError, match="more than once"):
        datasets.find("hide", tmp_path)
    assert datasets.find("hide", tmp_path / "Datasets").layout == "{blur,sharp}"


def test_hostile_names(tmp_path: Path) -> None:
    names = ["a b", "..a", "a\nb", "%s{x}", "-rf", "*", "ü", "a.b.c", "a\\b", os.fsdecode(b"\xff\xfe")]
    for role in ("blur", "sharp"):
        for name in names:
            path = tmp_path / "GoPro/test" / role / f"{name}.PNG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    found = datasets.find("gopro", tmp_path)
    assert {sample.name for sample in found.samples} == set(names) - {"..a"}  # a leading dot hides a file
    assert not facts(found)


def test_hidden_files_and_strangers_are_left_out(tmp_path: Path) -> None:
    home = miniature.gopro_sequences(tmp_path / "GoPro")
    for role in ("blur", "sharp"):
        for name in (".DS_Store", "._000001.png", "Thumbs.db", "desktop.ini", "notes.txt"):
            (home / "test/GOPR0384_11_00" / role / name).write_bytes(b"x")
    (home / "test/__MACOSX/GOPR0384_11_00/blur").mkdir(parents=True)
    (home / "test/.cache/blur").mkdir(parents=True)
    (home / "test/documents").mkdir()
    assert_sound(datasets.find("gopro", home), "gopro")


def test_upper_case(tmp_path: Path) -> None:
    put(tmp_path / "GOPRO/TEST/GOPR0384_11_00", "Blur/1.PNG", "SHARP/1.JPG", "Blur/2.Png", "SHARP/2.TIFF")
    found = datasets.find("gopro", tmp_path)
    assert len(found.samples) == 2 and found.split == "test" and not facts(found)


def test_folders_that_differ_in_case(tmp_path: Path) -> None:
    put(tmp_path / "GoPro/test", "blur/1.png", "Blur/1.png", "sharp/1.png")
    if len(list((tmp_path / "GoPro/test").iterdir())) < 3:
        pytest.skip("the file system does not tell case")
    with pytest.raises(ConfigError, match="only in case"):
        datasets.find("gopro", tmp_path)


def test_links(tmp_path: Path) -> None:
    """Links to sets are followed; loops end; a link that leads nowhere is not skipped."""
    home = miniature.gopro_sequences(tmp_path / "store/GOPRO_Large")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/gopro").symlink_to(home, target_is_directory=True)
    assert_sound(datasets.find("gopro", tmp_path / "data"), "gopro")
    (home / "GoPro").symlink_to(tmp_path / "data", target_is_directory=True)
    (home / "test/train").symlink_to(home, target_is_directory=True)
    (home / "test/GOPR0384_11_00/blur/loop").symlink_to("..", target_is_directory=True)
    (home / "test/GOPR0384_11_00/self").symlink_to("self")
    assert datasets.recognise(tmp_path / "data")
    rwbi = miniature.rwbi_flat(tmp_path / "RWBI")
    (rwbi / "again").symlink_to(rwbi, target_is_directory=True)
    assert len(datasets.find("rwbi", rwbi).samples) == 3
    (rwbi / "gone.png").symlink_to(rwbi / "nothing.png")
    assert [sample.name for sample in datasets.find("rwbi", rwbi).samples] == ["0001", "0002", "0003", "gone"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="is no folder"):
        datasets.find("gopro", tmp_path / "absent")
    with pytest.raises(UnavailableError, match="does not exist"):
        datasets.recognise(tmp_path / "absent")
    assert datasets.recognise(tmp_path) == []
    for name in datasets.NAMES:
        with pytest.raises(UnavailableError, match="was not found") as error:
            datasets.find(name, tmp_path)
        assert "https://" in str(error.value) and "expected" in str(error.value)
    (tmp_path / "GoPro/test/blur").mkdir(parents=True)
    with pytest.raises(UnavailableError, match="no folder of sharp ones"):
        datasets.find("gopro", tmp_path)
    (tmp_path / "GoPro/test/sharp").mkdir()
    with pytest.raises(UnavailableError, match="holds no images"):
        datasets.find("gopro", tmp_path)
    with pytest.raises(ConfigError, match="unknown data set"):
        datasets.find("gopro2", tmp_path)
    with pytest.raises(ConfigError, match="unknown split"):
        datasets.find("gopro", tmp_path, "val")


def test_unreadable_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = miniature.gopro_blur_sharp(tmp_path / "GoPro")
    (tmp_path / "lost+found").mkdir()
    scandir = os.scandir

    def refuse(*names: str) -> None:
        def scan(path: Path) -> object:
            if Path(path).name in names:
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", scan)

    refuse("lost+found")
    assert_sound(datasets.find("gopro", tmp_path), "gopro")
    refuse("lost+found", "sharp")
    with pytest.raises(InputError, match="sharp cannot be read: Permission denied"):
        datasets.find("gopro", home)


def test_containers_and_sets_inside_each_other(tmp_path: Path) -> None:
    put(tmp_path / "mine", "dataset/blur/1.png", "dataset/sharp/1.png")
    assert [len(each.samples) for each in datasets.recognise(tmp_path / "mine")] == [1]
    put(tmp_path / "RealBlur_J/RealBlur/test", "input/1.png", "target/1.png")
    assert [each.name for each in datasets.recognise(tmp_path / "RealBlur_J")] == ["realblur-j"]
    miniature.gopro_sequences(tmp_path / "GoPro/GOPRO_Large")
    assert_sound(datasets.find("gopro", tmp_path), "gopro")


def test_an_empty_sequence_is_told(tmp_path: Path) -> None:
    home = miniature.gopro_sequences(tmp_path / "GoPro")
    (home / "test/GOPR0410_11_00").mkdir()
    (problem,) = facts(datasets.find("gopro", home))
    assert "GOPR0410_11_00 holds no folder blur and no folder sharp" in problem


def test_the_first_folder_of_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homes = [miniature.gopro_ab(tmp_path / name / "GoPro") for name in "ba"]
    monkeypatch.setenv("XYSCAN_DATA", os.pathsep.join(str(home.parent) for home in homes))
    assert datasets.find("gopro").root == homes[0] / "test"
