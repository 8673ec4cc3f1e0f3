"""Which file of a folder of restored images is that of a sample."""

from __future__ import annotations

import pytest

from xyscannet.data.sets import Sample
from xyscannet.errors import InputError, UnavailableError
from xyscannet.evaluation import Folder


def files_in(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def set_of(folder, *names):
    return [Sample(name, folder / f"blur/{name}.png", folder / f"sharp/{name}.png", "") for name in names]


@pytest.mark.parametrize("layout", ["{name}.png", "test/s/blur/{stem}.png", "{flat}.PNG", "{stem}.png"])
def test_restored_files_are_found_in_usual_layouts(tmp_path, layout):
    names = [f"s/{i}" for i in range(6)]
    files = [layout.format(name=n, stem=n[2:], flat=n.replace("/", "_")) for n in names]
    samples = set_of(tmp_path, *names)
    source = Folder(files_in(tmp_path / "theirs", files), samples)
    assert source.label == "theirs"
    assert [source.find(sample) for sample in samples] == [tmp_path / "theirs" / file for file in files]


def test_restored_files_in_linked_folders_are_found(tmp_path):
    samples = set_of(tmp_path, "s/0", "s/1")
    files_in(tmp_path, ["elsewhere/0.png", "theirs/._0.png"])
    (tmp_path / "theirs/s").symlink_to(tmp_path / "elsewhere")
    assert Folder(tmp_path / "theirs", samples).find(samples[0]) == tmp_path / "theirs/s/0.png"


def test_missing_and_ambiguous_restored_files_fail(tmp_path):
    samples = set_of(tmp_path, "s/0", "s/1", "s/2")
    source = Folder(files_in(tmp_path / "theirs", ["a/0.png", "b/0.png", "1.png"]), samples)
    with pytest.raises(InputError, match="2 images that may be s/0"):
        source.find(samples[0])
    assert source.find(samples[1]) == tmp_path / "theirs/1.png"
    with pytest.raises(InputError, match="no image of s/2"):
        source.find(samples[2])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnavailableError, match="no images"):
        Folder(tmp_path / "empty", samples)


def test_an_end_that_samples_share_belongs_to_none(tmp_path):
    samples = set_of(tmp_path, "s/0", "s/1", "t/0", "t/1")
    source = Folder(files_in(tmp_path / "theirs", ["s/0.png", "s/1.png", "1.png"]), samples)
    assert [source.find(sample).parent.name for sample in samples[:2]] == ["s", "s"]
    for sample in samples[2:]:
        with pytest.raises(InputError, match=f"no image of {sample.name}$"):
            source.find(sample)


def test_ground_truth_beside_the_restored_images_is_not_measured(tmp_path):
    samples = set_of(tmp_path, "s/0", "s/1")
    source = Folder(
        files_in(tmp_path / "theirs", ["sharp/s/0.png", "out/s/0.png", "s/1.png", "sharp/s/1.png"]), samples
    )
    with pytest.raises(
        InputError, match=r"2 images that may be s/0: out/s/0.png, sharp/s/0.png; give the folder"
    ):
        source.find(samples[0])
    assert source.find(samples[1]) == tmp_path / "theirs/s/1.png"  # all of its name
    samples += set_of(tmp_path, "s/2")
    source = Folder(files_in(tmp_path / "theirs", ["sharp/s/2.png"]), samples)
    with pytest.raises(InputError, match="no image of s/2"):
        source.find(samples[2])
    scenes = [Sample("s/blur_1", tmp_path / "s/blur/blur_1.png", tmp_path / "s/gt/gt_1.png", "")]
    found = [
        Folder(files_in(tmp_path / name, files), scenes).find(scenes[0])
        for name, files in (("both", ["s/blur_1.png", "s/gt_1.png"]), ("by sharp", ["s/gt/gt_1.png"]))
    ]
    assert [file.name for file in found] == ["blur_1.png", "gt_1.png"]


def test_a_file_of_two_samples_is_none_of_them(tmp_path):
    samples = [Sample(f"{s}/x", tmp_path / f"blur/{s}/x.png", tmp_path / f"b/{s}/x.png", "") for s in "ba"]
    source = Folder(files_in(tmp_path / "theirs", ["a/b/x.png"]), samples)
    for sample in samples:
        with pytest.raises(InputError, match=r"a/b/x.png in .* may be b/x or a/x"):
            source.find(sample)
