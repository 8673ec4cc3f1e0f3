"""The records of `xyscan deblur --json`: what they say, and where they go."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.data.miniature import put
from xyscannet.inference import Record


def test_json_records_on_stdout(deblur) -> None:
    put(Path("in"), "a.png")
    Path("in/b.png").write_text("text")
    result = deblur("in", "out", "--json", "-")
    assert result.exit_code == 1
    good, bad = [json.loads(line) for line in result.stdout.splitlines()]
    assert (good["input"], good["output"], good["status"]) == ("in/a.png", "out/a.png", "done")
    assert good["size"] == [16, 12] and good["plan"]["mode"] == "whole" and good["seconds"] > 0
    assert bad["status"] == "failed" and "in/b.png" in bad["error"] and bad["plan"] is None


def test_one_input_with_two_outputs_has_two_records(deblur, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(jobs, model, settings, *, finished, progress) -> None:
        progress(jobs[0], 0.5)
        finished(Record(jobs[0], "done"))
        raise KeyboardInterrupt

    put(Path("in/sub"), "a.png")
    monkeypatch.setattr("xyscannet.inference.run_jobs", interrupted)
    result = deblur("in", "in/sub", "out", "--json", "-")
    assert result.exit_code == 130
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert {record["output"]: record["status"] for record in records} == {
        "out/sub/a.png": "done",
        "out/a.png": "interrupted",
    }


def test_json_into_a_pipe(deblur) -> None:
    put(Path("in"), "a.png")
    pipe, heard = Path("pipe"), []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_text()), daemon=True)
    reader.start()
    assert deblur("in", "out", "--json", "pipe").exit_code == 0
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    reader.join(10)
    assert [json.loads(each)["status"] for each in heard] == ["done"]


def test_json_file(deblur) -> None:
    put(Path("in"), "a.png")
    assert deblur("in", "out", "--json", "log.jsonl", "--quiet").stderr == ""
    assert json.loads(Path("log.jsonl").read_text())["status"] == "done"
    result = deblur("in", "out2", "--json", "log.jsonl")
    assert result.exit_code == 2 and "log.jsonl exists" in result.stderr
    assert deblur("in", "out", "--json", "log.jsonl", "--exist", "skip").exit_code == 0
    assert json.loads(Path("log.jsonl").read_text())["status"] == "skipped"
    result = deblur("in", "out", "--json", "in/a.png", "--exist", "overwrite")
    assert result.exit_code == 2 and "also an input" in result.stderr
    result = deblur("in", "out2", "--json", "out2")
    assert result.exit_code == 2 and "also an input or an output" in result.stderr
    there = sorted(str(path) for path in Path().rglob("*") if path.is_file())
    assert there == ["in/a.png", "log.jsonl", "out/a.png"]
    assert deblur("in", "new", "--json", "new/logs/log.jsonl").exit_code == 0
    assert json.loads(Path("new/logs/log.jsonl").read_text())["output"] == "new/a.png"


def test_records_behind_a_link(deblur) -> None:
    put(Path("in"), "a.png")
    Path("log").symlink_to("real.jsonl")
    assert deblur("in", "out", "--json", "log").exit_code == 0
    assert Path("log").is_symlink() and Path("real.jsonl").read_text().count("\n") == 1
    command = [sys.executable, "-m", "xyscan_cli", "deblur", "in", "out2", "--quiet", "--json"]
    for place in ("/dev/stdout", "so"):
        Path("so").unlink(missing_ok=True)
        Path("so").symlink_to("/dev/stdout")
        with open("records", "w") as records:
            subprocess.run([*command, place, "--exist", "skip"], stdout=records, check=True)
        assert Path("records").read_text().count("\n") == 1 and Path("so").is_symlink()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_records_that_cannot_be_written_do_not_go_elsewhere(deblur) -> None:
    put(Path("in"), "a.png", "b.png", "c.png")
    result = deblur("in", "out", "--json", "/dev/full")
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.count("its records are lost") == 1 and len(os.listdir("out")) == 3


def test_records_in_place_of_a_folder_are_refused_before_the_work(deblur) -> None:
    put(Path("in"), "a.png")
    Path("folder").mkdir()
    result = deblur("in", "out", "--json", "folder", "--exist", "skip")
    assert result.exit_code == 2 and "is a folder; name a file" in result.stderr and not Path("out").exists()
