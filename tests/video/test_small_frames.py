"""Encoders given frames of a few pixels stay within their memory, seen by the checking allocator of the C library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.video import clips

pytest.importorskip("av")

CHECKER = "libc_malloc_debug.so.0"
RUN = """
import sys
from pathlib import Path
from xyscannet.video import coding, decode, encode, pixels
from xyscannet.video.segments import ClipOptions, plan_clip

for codec in sys.argv[3:]:
    clip = plan_clip(Path(sys.argv[1]), ClipOptions(codec=codec))
    how = coding.choose_coding(clip, Path(sys.argv[2]))
    segment = clip.segments[0]
    writer = encode.SegmentWriter(Path(sys.argv[2]), clip, segment, how)
    for frame in decode.frames(clip.info, clip.index, segment.first, segment.frames):
        writer.write(list(pixels.to_planes(frame, how.layout)))
    writer.close()
    del writer
    print(codec, flush=True)
"""


@pytest.fixture
def checked() -> dict[str, str]:
    """The environment of a process in which writing past an allocation ends it when that is freed."""
    environment = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.check=3"}
    environment["LD_PRELOAD"] = CHECKER
    past = "import ctypes, numpy; a = numpy.ones(5000, bool); ctypes.memset(a.ctypes.data, 1, 5001); del a"
    if subprocess.run([sys.executable, "-c", past], env=environment, capture_output=True).returncode >= 0:
        pytest.skip(f"there is no {CHECKER} here")
    return environment


@pytest.mark.parametrize("height, width", [(32, 48), (16, 16)])
def test_small_frames(tmp_path: Path, checked: dict[str, str], height: int, width: int) -> None:
    source = clips.write(tmp_path / "clip.mkv", clips.pan(4, height, width), sound=False)
    codecs = ["h264", "hevc", "vp9", "mpeg4", "mpeg2video"]
    words = [sys.executable, "-c", RUN, str(source), str(tmp_path / "out.mkv"), *codecs]
    done = subprocess.run(words, env=checked, capture_output=True, text=True)
    assert done.stdout.split() == codecs, done.stderr
    assert done.returncode == 0, done.stderr
