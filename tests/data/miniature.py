"""Miniature data sets in the layouts that circulate: two or three small pictures of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from xyscannet.data.datasets import Dataset

SCENES = {
    "J": "RealBlur-J_ECC_IMCORR_centroid_itensity_ref",
    "R": "RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref",
}


def picture(path: Path, *, size: tuple[int, int] = (16, 12), seed: int = 0) -> Path:
    """Write noise of (width, height) pixels; the suffix says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def put(root: Path, *names: str) -> Path:
    """Write pictures to these paths below root, each with its own noise."""
    for seed, name in enumerate(names):
        picture(root / name, seed=seed)
    return root


def _both(root: Path, roles: tuple[str, str], stems: Iterable[str]) -> None:
    put(root, *(f"{role}/{stem}.png" for stem in stems for role in roles))


def gopro_sequences(root: Path) -> Path:
    """{test,train}/SEQUENCE/{blur,blur_gamma,sharp}/*: two sequences with three pairs, one with one."""
    for split, sequence, count in (
        ("test", "GOPR0384_11_00", 2),
        ("test", "GOPR0385_11_01", 1),
        ("train", "GOPR0372_07_00", 1),
    ):
        folder = root / split / sequence
        for role in ("blur", "blur_gamma", "sharp"):
            put(folder / role, *(f"{number:06d}.png" for number in range(1, count + 1)))
    return root


def gopro_blur_sharp(root: Path) -> Path:
    """{test,train}/{blur,sharp}/*."""
    _both(root / "test", ("blur", "sharp"), ["GOPR0384_11_00-000001", "GOPR0385_11_01-000001"])
    _both(root / "train", ("blur", "sharp"), ["GOPR0372_07_00-000047"])
    return root


def gopro_input_target(root: Path) -> Path:
    """{test,train}/{input,target}/*."""
    _both(root / "test", ("input", "target"), ["GOPR0384_11_00-000001", "GOPR0385_11_01-000001"])
    _both(root / "train", ("input", "target"), ["GOPR0372_07_00-000047"])
    return root


def gopro_ab(root: Path) -> Path:
    """test/{testA,testB}/*."""
    _both(root / "test", ("testA", "testB"), ["GOPR0384_11_00-000001", "GOPR0385_11_01-000001"])
    return root


def hide_published(root: Path) -> Path:
    """test/{test-close-ups,test-long-shot}/*, train/* and GT/* with the sharp images of both splits."""
    put(root / "test/test-close-ups", "1fromGOPR1096.MP4.png", "7fromGOPR1096.MP4.png")
    put(root / "test/test-long-shot", "10fromGOPR0950.png")
    put(root / "train", "2fromGOPR0950.png")
    put(
        root / "GT",
        "1fromGOPR1096.MP4.png",
        "7fromGOPR1096.MP4.png",
        "10fromGOPR0950.png",
        "2fromGOPR0950.png",
    )
    return root


def hide_blur_sharp(root: Path) -> Path:
    """test/{blur,sharp}/*."""
    _both(root / "test", ("blur", "sharp"), ["1fromGOPR1096.MP4", "10fromGOPR0950"])
    return root


def hide_input_target(root: Path) -> Path:
    """test/{input,target}/*."""
    _both(root / "test", ("input", "target"), ["1fromGOPR1096.MP4", "10fromGOPR0950"])
    return root


def realblur_lists(root: Path, letter: str = "J") -> Path:
    """The published folder of scenes with list files beside it: two test pairs, one training pair."""
    scenes = root / SCENES[letter]
    for scene, count in (("scene001", 1), ("scene002", 2)):
        for role in ("blur", "gt"):
            put(scenes / scene / role, *(f"{role}_{number}.png" for number in range(1, count + 1)))
    for split, scene, numbers in (("test", "scene002", (1, 2)), ("train", "scene001", (1,))):
        lines = [
            f"{scenes.name}/{scene}/gt/gt_{number}.png {scenes.name}/{scene}/blur/blur_{number}.png"
            for number in numbers
        ]
        (root / f"RealBlur_{letter}_{split}_list.txt").write_text("\n".join(lines) + "\n")
    return root


def realblur_ab(root: Path) -> Path:
    """test/{testA,testB}/* and train/{trainA,trainB}/* with names that differ in blur and gt."""
    for split, scene, count in (("test", "scene002", 2), ("train", "scene001", 1)):
        for number in range(1, count + 1):
            put(root / split / f"{split}A", f"{scene}_blur_{number}.png")
            put(root / split / f"{split}B", f"{scene}_gt_{number}.png")
    return root


def rwbi_flat(root: Path) -> Path:
    """Images in one folder."""
    return put(root, "0001.jpg", "0002.jpg", "0003.jpg")


def rwbi_bursts(root: Path) -> Path:
    """One folder per burst."""
    return put(root, "1/0001.jpg", "1/0002.jpg", "2/0001.jpg")


def photographs(root: Path) -> Path:
    """GoPro and HIDE of photographs that scikit-image carries, 288x432, blurred by a circular path 5 pixels wide.

    Three pairs to train on and one to test in GoPro, one to test in HIDE: enough to learn to undo that blur.
    """
    import cv2
    from skimage import data

    kernel = np.zeros((9, 9), np.float32)
    for angle in np.arange(0, 2 * np.pi, np.pi / 64):
        y, x = 4 + 2.5 * np.sin(angle), 4 + 2.5 * np.cos(angle)
        top, left = int(y), int(x)
        for row, column in ((top, left), (top + 1, left), (top, left + 1), (top + 1, left + 1)):
            kernel[row, column] += (1 - abs(y - row)) * (1 - abs(x - column)) / 128
    places = {name: f"GoPro/train/{name}/{{}}/000001.png" for name in ("astronaut", "coffee", "rocket")}
    places["chelsea"] = "GoPro/test/chelsea/{}/000001.png"
    places["stereo_motorcycle"] = "HIDE/test/{}/1fromGOPR1096.MP4.png"
    for name, place in places.items():
        photo = getattr(data, name)()
        sharp = np.ascontiguousarray((photo[0] if isinstance(photo, tuple) else photo)[:296, :448])
        blurred = cv2.filter2D(sharp, -1, kernel)
        for role, image in (("blur", blurred), ("sharp", sharp)):
            path = root / place.format(role)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[4:-4, 8:-8]).save(path)
    return root


Make = Callable[[Path], Path]
"""Writes a set into a folder and returns the folder."""

LAYOUTS: dict[str, dict[str, Make]] = {
    "gopro": {
        "sequences": gopro_sequences,
        "blur-sharp": gopro_blur_sharp,
        "input-target": gopro_input_target,
        "ab": gopro_ab,
    },
    "hide": {
        "published": hide_published,
        "blur-sharp": hide_blur_sharp,
        "input-target": hide_input_target,
    },
    "rwbi": {"flat": rwbi_flat, "bursts": rwbi_bursts},
    "realblur-j": {"lists": realblur_lists, "ab": realblur_ab},
    "realblur-r": {"lists": lambda root: realblur_lists(root, "R"), "ab": realblur_ab},
}
FOLDERS = {
    "gopro": ("GoPro", "GOPRO_Large", "gopro"),
    "hide": ("HIDE", "HIDE_dataset", "hide"),
    "rwbi": ("RWBI", "rwbi"),
    "realblur-j": ("RealBlur-J", "RealBlur_J", "realblur_j"),
    "realblur-r": ("RealBlur-R", "RealBlur_R", "realblur_r"),
}
"""Usual names of each set's folder."""
COUNTS = {"gopro": (2, 3), "hide": (2, 3), "rwbi": (3, 3), "realblur-j": (2, 2), "realblur-r": (2, 2)}
"""Fewest and most test samples that the layouts of a set hold."""


def facts(found: Dataset) -> list[str]:
    """The problems but the wrong count that every miniature has."""
    return [problem for problem in found.problems if "; the " not in problem]
