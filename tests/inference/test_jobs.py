"""From inputs to jobs: what is found, where it goes, what is refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from xyscannet.errors import ConfigError, UnavailableError
from xyscannet.inference import make_jobs


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(path: str | Path, size: tuple[int, int] = (4, 3)) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 30)).save(path, format="PNG" if not path.suffix else None)
    return path


def pairs(jobs) -> list[tuple[str, str]]:
    return [(str(job.input), str(job.output)) for job in jobs.jobs]


def test_a_folder_is_walked_and_mirrored(here: Path) -> None:
    for name in ("in/b.png", "in/a.JPG", "in/sub/deep/c.tif", "in/.hidden.png", "in/.thumbs/d.png"):
        picture(name)
    Path("in/notes.txt").write_text("x")
    jobs = make_jobs(["in"], "out")
    assert sorted(pairs(jobs)) == [
        ("in/a.JPG", "out/a.JPG"),
        ("in/b.png", "out/b.png"),
        ("in/sub/deep/c.tif", "out/sub/deep/c.tif"),
    ]
    assert jobs.ignored_kinds == "1 other file ignored: .txt" and jobs.folder == Path("out")
    assert not Path("out").exists()


def test_a_folder_named_like_an_image_is_a_folder(here: Path) -> None:
    picture("in/x.png/y.png")
    assert pairs(make_jobs(["in"], "out")) == [("in/x.png/y.png", "out/x.png/y.png")]
    assert pairs(make_jobs(["in/x.png"], "out")) == [("in/x.png/y.png", "out/y.png")]


def test_a_single_file_goes_to_a_file_or_into_a_folder(here: Path) -> None:
    picture("a.png")
    Path("there.png").mkdir()
    assert pairs(make_jobs(["a.png"], "b.jpg")) == [("a.png", "b.jpg")]
    assert pairs(make_jobs(["a.png"], "out")) == [("a.png", "out/a.png")]
    assert pairs(make_jobs(["a.png"], "out.jpg/")) == [("a.png", "out.jpg/a.png")]
    assert pairs(make_jobs(["a.png"], "there.png")) == [("a.png", "there.png/a.png")]


def test_patterns_keep_the_place_under_their_fixed_part(here: Path) -> None:
    picture("in/a.png"), picture("in/s/a.png"), picture("in/s/t/b.png")
    assert pairs(make_jobs(["in/*.png"], "out")) == [("in/a.png", "out/a.png")]
    both = [("in/a.png", "out/a.png"), ("in/s/a.png", "out/s/a.png"), ("in/s/t/b.png", "out/s/t/b.png")]
    assert sorted(pairs(make_jobs(["in/**/*.png"], "out"))) == both
    assert sorted(pairs(make_jobs(["in/**"], "out"))) == both
    assert sorted(pairs(make_jobs(["in/*"], "out"))) == both
    assert sorted(pairs(make_jobs(["in/*/"], "out"))) == both[1:]


def test_patterns_follow_links_once(here: Path) -> None:
    picture("in/a.png"), picture("in/s/b.png"), picture("in/s/.hidden/c.png"), picture("outside/d.png")
    for link in ("in/again", "in/s/again"):
        Path(link).symlink_to(here / "in")
    Path("in/link").symlink_to("../outside")
    all_of_it = [
        ("in/a.png", "out/a.png"),
        ("in/link/d.png", "out/link/d.png"),
        ("in/s/b.png", "out/s/b.png"),
    ]
    for pattern in ("in/**/*.png", "in/**", "in/**/[a-d].png"):
        assert pairs(make_jobs([pattern], "out")) == all_of_it
    assert pairs(make_jobs(["in/**/s/*.png"], "out")) == all_of_it[2:]
    assert pairs(make_jobs(["in/**/s/**/b*"], "out")) == all_of_it[2:]
    assert pairs(make_jobs(["i*/**/.h*/*.png"], "out")) == [("in/s/.hidden/c.png", "out/in/s/.hidden/c.png")]
    assert {job.input.stem for job in make_jobs(["**/?.png"], "out").jobs} == set("abd")


def test_a_name_with_brackets_is_a_name(here: Path) -> None:
    picture("a[1].png")
    assert pairs(make_jobs(["a[1].png"], "out")) == [("a[1].png", "out/a[1].png")]


def test_a_file_given_by_name_needs_no_suffix(here: Path) -> None:
    picture("photo"), picture(".hidden.png")
    jobs = make_jobs(["photo", ".hidden.png"], "out")
    assert pairs(jobs) == [("photo", "out/photo"), (".hidden.png", "out/.hidden.png")]
    assert jobs.jobs[0].info.format == "png" and jobs.jobs[0].pixels == 12


def test_format_changes_the_suffix_only_where_needed(here: Path) -> None:
    picture("in/a.png"), picture("in/b.jpeg")
    assert sorted(pairs(make_jobs(["in"], "out", format="jpeg"))) == [
        ("in/a.png", "out/a.jpg"),
        ("in/b.jpeg", "out/b.jpeg"),
    ]
    with pytest.raises(ConfigError, match="disagree"):
        make_jobs(["in/a.png"], "b.png", format="jpeg")


def test_what_cannot_be_read_is_a_job_with_its_reason(here: Path) -> None:
    picture("in/a.png")
    Path("in/empty.png").touch()
    jobs = make_jobs(["in"], "out").jobs
    assert [job.error is None for job in jobs] == [True, False]
    assert "empty" in jobs[1].error


@pytest.mark.parametrize(
    ("inputs", "output", "words"),
    [
        (["gone.png"], "out", "does not exist: gone.png"),
        (["gone"], "out", "does not exist"),
        (["in/gone*.png"], "out", "no file matches"),
        (["empty"], "out", "no image in empty.*looked for .png"),
        (["texts"], "out", "no image in texts; 1 other file there: .txt .looked for"),
        (["broken.png"], "out", "broken link"),
        (["in"], "in", "is the input folder"),
        (["in"], "in/", "is the input folder"),
        (["in"], "in/new/out", "lies inside the input folder"),
        (["in"], "alias/out", "lies inside the input folder"),
        (["alias"], "in/out", "lies inside the input folder"),
        (["in/a.png"], "in", "replace the input"),
        (["in/a.png"], "in/a.png", "replace the input"),
        (["in/a.png"], "alias/a.png", "replace the input"),
        (["in/a.png", "other/a.png"], "out", "two inputs .*in/a.png and other/a.png to out/a.png"),
        (["in", "other"], "out", "two inputs"),
        (["in", "other/b.png"], "note.txt", "must be a folder .* is a file"),
        (["in"], "new.png", "looks like a file"),
        (["in/a.png"], "new.avif", "cannot write .avif"),
    ],
)
def test_refused_before_any_work(here: Path, inputs: list[str], output: str, words: str) -> None:
    picture("in/a.png"), picture("other/a.png"), picture("other/b.png")
    Path("empty").mkdir()
    Path("texts").mkdir()
    Path("texts/a.txt").touch()
    Path("note.txt").touch()
    Path("broken.png").symlink_to("nowhere.png")
    Path("alias").symlink_to("in")
    with pytest.raises(ConfigError, match=words):
        make_jobs(inputs, output)


def test_an_output_reached_through_a_link_in_the_input_is_refused(here: Path) -> None:
    picture("in/a.png"), picture("results/a.png")
    Path("in/link").symlink_to("../results")
    with pytest.raises(ConfigError, match="input folder"):
        make_jobs(["in"], "results", exist="overwrite")


def test_formats_can_make_two_inputs_one_output(here: Path) -> None:
    picture("in/a.png"), picture("in/a.jpg")
    assert len(make_jobs(["in"], "out").jobs) == 2
    with pytest.raises(ConfigError, match="two inputs"):
        make_jobs(["in"], "out", format="png")


def test_an_input_given_twice_is_done_once(here: Path) -> None:
    picture("in/a.png")
    assert len(make_jobs(["in", "in/a.png", "in/*.png"], "out").jobs) == 1


def test_link_loops_end(here: Path) -> None:
    picture("in/a.png")
    Path("in/loop").symlink_to(".")
    Path("in/self").symlink_to("self")
    Path("in/sub").mkdir()
    Path("in/sub/up").symlink_to("..")
    assert pairs(make_jobs(["in"], "out")) == [("in/a.png", "out/a.png")]


@pytest.mark.parametrize("pattern", ["in/*/../../*.png", "in/s/*/../../../*.png"])
def test_a_pattern_does_not_lead_out_of_the_output_folder(here: Path, pattern: str) -> None:
    picture("a.png"), picture("in/s/t/b.png")
    with pytest.raises(ConfigError, match="a.png would leave the output folder"):
        make_jobs([pattern], "results/out", format="jpeg")
    inside = pairs(make_jobs(["in/*/../s/t/*.png"], "out"))
    assert [os.path.normpath(output) for _, output in inside] == ["out/s/t/b.png"]


@pytest.mark.parametrize("target", ["../secret", "/tmp", ".."])
def test_a_link_does_not_lead_out_of_the_output_folder(here: Path, target: str) -> None:
    picture("in/sub/a.png"), picture("in/b.png")
    Path("secret").mkdir()
    Path("out").mkdir()
    Path("out/sub").symlink_to(target)
    with pytest.raises(ConfigError, match=r"sub/a.png would leave the output folder.*remove the link"):
        make_jobs(["in"], "out", exist="overwrite")
    Path("out/sub").unlink()
    Path("out/other").mkdir()
    Path("out/sub").symlink_to("other")  # within it a link is as good as a folder,
    assert len(make_jobs(["in"], "out").jobs) == 2
    Path("alias").symlink_to("out")  # and the folder itself may be one
    assert len(make_jobs(["in"], "alias").jobs) == 2


def test_a_pipe_named_like_an_image_is_not_opened(here: Path) -> None:
    picture("in/a.png")
    os.mkfifo("in/b.png")
    for name in "abcdef":
        Path(f"in/x.{name}").touch(), Path(f"in/y.{name}").touch()
    Path("in/only.one").touch()
    jobs = make_jobs(["in"], "out")
    assert jobs.ignored_kinds == "14 other files ignored: .a, .b, .c, .d, .e, ..."
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        make_jobs(["in/b.png"], "out")


def test_existing_outputs(here: Path) -> None:
    for name in "abcd":
        picture(f"in/{name}.png")
    for name in "bcd":
        picture(f"out/{name}.png")
    with pytest.raises(ConfigError, match=r"3 of 4 outputs exist: .*out/b.png.*--exist skip"):
        make_jobs(["in"], "out")
    assert [job.skip for job in make_jobs(["in"], "out", exist="skip").jobs] == [False, True, True, True]
    assert not any(job.skip for job in make_jobs(["in"], "out", exist="overwrite").jobs)


def test_names_with_newlines_are_escaped_in_messages(here: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        make_jobs(["go\nne.png"], "out")
    assert "\n" not in str(raised.value) and "go\\nne" in str(raised.value)


@pytest.mark.parametrize(("inputs", "output"), [([""], "out"), (["in", ""], "out"), (["in"], "")])
def test_empty_names_are_not_the_folder_here(here: Path, inputs: list[str], output: str) -> None:
    picture("in/a.png")
    with pytest.raises(ConfigError, match="empty name"):
        make_jobs(inputs, output)


def test_a_format_whose_package_is_missing_is_told_before_the_work(here: Path, monkeypatch) -> None:
    picture("in/a.png")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for output, format in (("out", "heic"), ("b.heic", None)):
        with pytest.raises(UnavailableError, match=r"xyscannet\[heif\]"):
            make_jobs(["in/a.png"], output, format=format)
