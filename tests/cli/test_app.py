"""The frame of the command line: what it imports, what it lists, what it exits with."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from xyscan_cli import app as frame
from xyscan_cli import console, exits, tables
from xyscan_cli.app import COMMANDS, app
from xyscan_cli.progress import Progress, duration
from xyscannet import __version__, environment
from xyscannet.errors import ConfigError, InputError, UnavailableError, XYScanError
from xyscannet.ops import compiling

runner = CliRunner()
ROOT = Path(__file__).parents[2]


def python(code: str, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, **options)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, json\nfrom xyscan_cli.app import app\ntry:\n app(['--help'])\nexcept SystemExit as e:\n"
        " print(json.dumps([e.code, sorted({m.split('.')[0] for m in sys.modules})]), file=sys.stderr)"
    )
    seconds = []  # of the processor, so that a busy machine fails nothing
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = python(code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    code, modules = json.loads(done.stderr)
    assert code == 0
    assert all(name in done.stdout for name in COMMANDS)
    heavy = {"torch", "numba", "numpy", "cv2", "PIL", "scipy", "pydantic", "yaml", "safetensors"}
    assert not heavy & set(modules)
    assert min(seconds) < 0.5


def test_module_and_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "xyscan_cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"xyscan {__version__}\n"


def test_the_version_is_that_of_the_code_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "of another installation")
    assert runner.invoke(app, ["--version"]).stdout == f"xyscan {__version__}\n"


def test_without_a_command_the_help_is_shown() -> None:
    result = runner.invoke(app, [])
    assert result.exit_code == 0 and "deblur" in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_debug(name: str) -> None:
    result = runner.invoke(app, [name, "--help"])
    assert result.exit_code == 0, result.output
    command = frame.load(name)
    members = getattr(command, "commands", {name: command}).values()
    assert all(any("--debug" in p.opts for p in member.params) for member in members)


def test_help_is_broken_where_the_terminal_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = runner.invoke(app, ["eval", "--help"]).stdout
    assert "[NAME|FILE|FOLDER]..." in shown and "[[" not in shown
    paragraph = shown.split("beside the paper's numbers.")[1].split("Examples:")[0]
    lines = [line.strip() for line in paragraph.splitlines() if line.strip()]
    for line, following in itertools.pairwise(lines):
        assert len(f"{line} {following.split()[0]}") > 78  # the next word had no room


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["deblurr"], "No such command 'deblurr'"),
        (["--wrong"], "No such option: --wrong"),
        (["deblur", "--wrong"], "No such option: --wrong"),
        (["deblur"], "INPUT"),
        (["deblur", "one"], "both INPUT and OUTPUT"),
        (["deblur", "a", "b", "--exist", "maybe"], "maybe"),
        (["deblur", "a", "b", "--tile", "big"], "--tile must be auto, none or a number"),
        (["deblur", "a", "b", "--quality", "0"], "--quality"),
    ],
)
def test_usage_errors_exit_2_with_one_message(arguments: list[str], words: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and words in result.stderr
    assert result.stderr.count("error:") == 1 and "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Put a command `doctor` in place that raises."""

    def put(error: BaseException) -> None:
        def command(
            debug: Annotated[bool, typer.Option("--debug", callback=console.set_debug)] = False,
        ) -> None:
            raise error

        holder = typer.Typer(add_completion=False)
        holder.command("doctor")(command)
        monkeypatch.setattr(frame, "load", lambda name: typer.main.get_command(holder))

    return put


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), 1),
        (XYScanError("x"), 1),
        (ConfigError("x"), 2),
        (UnavailableError("x"), 3),
        (ValueError("x"), 1),
        (PermissionError(errno.EACCES, "no", "x"), 2),
        (PermissionError(errno.EPERM, "no"), 1),
        (KeyboardInterrupt(), 130),
        (exits.Terminated(), 143),
    ],
)
def test_exit_codes(failing, error: BaseException, code: int) -> None:
    failing(error)
    result = runner.invoke(app, ["doctor"])
    assert result.exit_code == code
    assert result.stderr.startswith("error: ") and "Traceback" not in result.stderr


def test_a_traceback_with_debug_only(failing) -> None:
    failing(ConfigError("what is wrong"))
    for arguments in (["doctor", "--debug"], ["--debug", "doctor"]):
        result = runner.invoke(app, arguments)
        assert result.exit_code == 2 and "Traceback" in result.stderr
        assert result.stderr.endswith("error: what is wrong\n")
    assert "Traceback" not in runner.invoke(app, ["doctor"]).stderr


def test_messages_are_escaped_and_never_wrapped_or_marked_up(failing) -> None:
    name = "[bold]a\x1b[31m\udcff" + "long " * 40 + "[/bold].png"
    failing(ConfigError(f"{name}\nsecond line"))
    lines = runner.invoke(app, ["doctor"]).stderr.splitlines()
    assert lines[0].startswith("error: [bold]a\\x1b[31m\\udcff") and lines[0].endswith("[/bold].png")
    assert lines[1:] == ["second line"]


def test_ctrl_c_raises_once_then_winds_up() -> None:
    code = """
import os, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whatever the tests were started under
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
from xyscan_cli import console, exits, tables
def work():
    try:
        os.kill(os.getpid(), NUMBER); time.sleep(5)
    finally:
        os.kill(os.getpid(), signal.SIGINT); print("wound up", flush=True)
sys.exit(exits.exit_code_of(work))
"""
    for number, exit_code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)):
        done = python(code.replace("NUMBER", str(int(number))))
        assert (done.returncode, done.stdout) == (exit_code, "wound up\n")
        assert done.stderr.count("\n") == 1


def test_an_interrupt_that_is_lost_does_not_make_deaf() -> None:
    code = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
from xyscan_cli import exits
def work():
    try:
        os.kill(os.getpid(), signal.SIGINT); time.sleep(5)
    except KeyboardInterrupt:  # as torch does while it imports numpy
        pass
    try:
        os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)
    except KeyboardInterrupt as interrupt:
        exits.interrupted(interrupt)
    os.kill(os.getpid(), signal.SIGTERM); time.sleep(0.1)
    return 7
sys.exit(exits.exit_code_of(work))
"""
    done = python(code)
    assert (done.returncode, done.stderr) == (7, "error: terminated\n")


@pytest.mark.parametrize(
    ("line", "code"), [('console.data({"x": 1})', 0), ('print("x" * 99, flush=True)', 1)]
)
def test_a_reader_that_leaves_is_no_traceback(line: str, code: int) -> None:
    program = f"""
import sys
from xyscan_cli import console, exits, tables
def work():
    for _ in range(20_000):
        {line}
sys.exit(exits.exit_code_of(work))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == code


@pytest.mark.parametrize("shell", ["2>&-", ">&-", "2>&- >&- <&-", "2>/dev/full", "2>&1 | head -n 1"])
def test_the_work_goes_on_without_streams(tmp_path: Path, shell: str) -> None:
    program = """
import sys
from xyscan_cli import console, exits, tables
def work():
    for n in range(2000):
        console.warn("x" * 99) if n < 1000 else console.data(n)
    open("done", "x").write("yes")
sys.exit(exits.exit_code_of(work))
"""
    (tmp_path / "work.py").write_text(program)
    command = f"set -o pipefail; {shlex.quote(sys.executable)} work.py {shell}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (run.returncode, "Traceback" in run.stdout + run.stderr) == (0, False)
    assert (tmp_path / "done").read_text() == "yes"


@pytest.mark.skipif(sys.platform == "win32", reason="there it cannot be removed")
def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = runner.invoke(app, ["models", "list"])
    assert result.exit_code == 3
    assert "the working directory is not there any more" in result.stderr and len(result.stderr) < 150
    for arguments in ([], ["--help"], ["--version"], ["deblur", "--help"], ["data", "synth", "-h"]):
        result = runner.invoke(app, arguments)
        assert (result.exit_code, result.stderr) == (0, ""), arguments


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGTERM"])
def test_signals_that_were_ignored_stay_so(name: str) -> None:
    """As `nohup` has it, and a shell for what it starts in the background."""
    code = f"""
import os, signal, sys
signal.signal(signal.{name}, signal.SIG_IGN)
from xyscan_cli import console, exits, tables
sys.exit(exits.exit_code_of(lambda: os.kill(os.getpid(), signal.{name})))
"""
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_text_that_stdout_cannot_take_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "xyscan_cli", "train", "--list"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: stdout cannot be written: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_text_that_stdout_has_not_taken_at_the_end_is_an_error() -> None:
    program = "import sys; from xyscan_cli import exits; sys.exit(exits.exit_code_of(lambda: print('text')))"
    with open("/dev/full", "w") as full:
        command, environment = [sys.executable, "-c", program], {**os.environ, "PYTHONUNBUFFERED": ""}
        done = subprocess.run(command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "error: stdout cannot be written: No space left on device\n")


def test_characters_that_stdout_does_not_have_are_escaped() -> None:
    program = """
import sys
from xyscan_cli import exits, tables
sys.exit(exits.exit_code_of(lambda: tables.show(["PSNR ↑"], [["32.11 ± 0.05"]])))
"""
    done = python(program, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout.split("\n")[0]) == (0, "PSNR \\u2191"), done.stderr


def test_a_row_of_a_table_is_one_line_where_stdout_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    row = ["a" * 300, "undefined symbol: " + "_ZN3c104cuda " * 30 + "end"]
    tables.show(["package", "reason"], [row])
    assert capsys.readouterr().out.splitlines()[1:] == ["  ".join(row)]


def test_data_that_stdout_cannot_take_is_an_error(tmp_path: Path) -> None:
    program = """
import sys
from xyscan_cli import console, exits, tables
def work():
    console.data(1); console.data(2); console.say("went on")
sys.exit(exits.exit_code_of(work))
"""
    with open("/dev/full", "w") as full:
        run = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 1
    assert (
        run.stderr
        == "error: stdout cannot be written, its records are lost: No space left on device\nwent on\n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (42.4, "42 s"), (187, "3:07"), (3723, "1:02:03")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_progress_in_plain_lines_is_sparse(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(console._State, "rich", None)
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress(20.0, "MP", items=4) as bar:
        for step in range(200):
            now[0] = step / 10
            bar.update(step / 10, finished=step // 50)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "1/4 images, 5.0/20.0 MP, 1.0 MP/s, 15 s left",
        "2/4 images, 10.0/20.0 MP, 1.0 MP/s, 10 s left",
        "3/4 images, 15.0/20.0 MP, 1.0 MP/s, 5.0 s left",
    ]


def test_the_time_left_does_not_count_what_an_earlier_run_has_done(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Progress(100.0, "images", before=80) as bar:
        bar.update(80)
        now[0] = 10.0
        assert "left" not in bar.status()
        bar.update(90)
        assert bar.status().endswith("1.0 images/s, 10 s left")


@pytest.mark.parametrize(("name", "value"), [("THP_MEM_ALLOC_ENABLE", "0"), ("OMP_WAIT_POLICY", "active")])
def test_the_environment_of_torch_is_ours_unless_the_user_decided(name, value, monkeypatch):
    for before in (None, value):
        monkeypatch.delenv(name, raising=False)
        if before is not None:
            monkeypatch.setenv(name, before)
        with pytest.raises(SystemExit):
            app(["--version"])
        assert os.environ[name] == (before or environment.DEFAULTS[name])


def test_that_kernels_are_compiled_is_said_unless_quiet(capsys):
    assert compiling.FIRST_USE == exits.FIRST_USE
    message = logging.getLogger(exits.FIRST_USE)
    with exits._library_messages():
        message.info("kernels")
        logging.getLogger("xyscannet").info("not for everybody")
        console.set_quiet(True)
        message.info("quiet")
        console.begin()
    assert capsys.readouterr().err == "kernels\n"


def test_what_the_library_warns_of_is_told_and_its_log_with_debug(capsys):
    message = logging.getLogger("xyscannet.training")
    with exits._library_messages():
        message.warning("lost")
        warnings.warn("old", stacklevel=1)
        message.info("not for everybody")
        console.set_debug(True)
        message.info("step 1")
        console.begin()
    message.warning("afterwards"), message.info("afterwards")
    assert capsys.readouterr().err == "warning: lost\nwarning: old\nxyscannet.training: step 1\n"
