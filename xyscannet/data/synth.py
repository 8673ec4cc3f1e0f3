"""Pairs of blurred and sharp files, made from sharp photographs, in GoPro's layout.

    OUT/test/<photograph>/blur/000001.png
    OUT/test/<photograph>/sharp/000001.png
    OUT/manifest.json

One sequence per photograph, named by its path below the source folder, "/" written as "__"; without the suffix unless
two would be one, or it would not be taken for a sequence, as `train` of train.jpg. Within it one pair per blur.
Pixels that a moving camera would have seen beyond the photograph's border are unknown, so a margin is cut off all
around. Every pair depends on the seed, its photograph's name and its own number only.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xyscannet.data.blur import STRENGTHS, BlurConfig, render, sample_blur
from xyscannet.data.layouts import may_be_sequence
from xyscannet.data.pairs import image_files
from xyscannet.data.photos import sharp_tiles
from xyscannet.errors import ConfigError, InputError, XYScanError
from xyscannet.files import held, remove_leftovers, write_text
from xyscannet.images import SUFFIXES, Photo, read, write

MANIFEST = "manifest.json"
SPLIT = "test"
MIXED = "mixed"


@dataclass(frozen=True)
class SynthSettings:
    """What pairs to make: `strength` of `STRENGTHS` or "mixed" (drawn per pair), `count` pairs per photograph.

    `crop` is the side of square pictures cut where the photograph is sharp; None blurs whole photographs.
    """

    strength: str = MIXED
    seed: int = 0
    count: int = 1
    crop: int | None = None

    def __post_init__(self) -> None:
        known = (*STRENGTHS, MIXED)
        if self.strength not in known:
            raise ConfigError(f"unknown blur strength {self.strength!r}; known: {', '.join(known)}")
        if self.count < 1 or self.seed < 0 or (self.crop is not None and self.crop < 16):
            raise ConfigError("count must be at least 1, seed at least 0 and crop at least 16")


@dataclass
class SynthResult:
    """What became of one photograph: its pairs as in the manifest, how many were there already, or an error."""

    source: Path
    pairs: list[dict[str, Any]] = field(default_factory=list)
    kept: int = 0
    error: str | None = None


class Synthesis:
    """Pairs to be made of every photograph below `sharp_dir` in `out_dir`; iterate over `run()` to make them.

    `exist` says what to do with an `out_dir` that is not empty: "error" refuses it, "skip" keeps complete pairs,
    "overwrite" replaces them. Both refuse a folder with pairs that these settings would not make.
    Raises ConfigError before anything is written.
    """

    def __init__(
        self,
        sharp_dir: str | Path,
        out_dir: str | Path,
        settings: SynthSettings | None = None,
        *,
        exist: str = "error",
    ) -> None:
        self.sharp_dir, self.out_dir = Path(sharp_dir), Path(out_dir)
        self.settings, self.exist = settings or SynthSettings(), exist
        if not self.sharp_dir.is_dir():
            raise ConfigError(f"{self.sharp_dir} is no folder; name a folder of sharp photographs")
        inside, outside = self.out_dir.resolve(), self.sharp_dir.resolve()
        if inside == outside or outside in inside.parents or inside in outside.parents:
            raise ConfigError(
                f"{self.out_dir} and {self.sharp_dir} lie in one another; choose another output folder"
            )
        self.sources = self._named([path for path in image_files(self.sharp_dir) if path.is_file()])
        if not self.sources:
            raise ConfigError(f"no photographs ({', '.join(SUFFIXES)}) in {self.sharp_dir}")
        self._check_output()

    def __len__(self) -> int:
        return len(self.sources)

    def _named(self, files: list[Path]) -> dict[str, Path]:
        places = [path.relative_to(self.sharp_dir) for path in files]
        stems = ["__".join(place.with_suffix("").parts) for place in places]
        shared = Counter(stems)
        named = {}
        for path, place, stem in zip(files, places, stems):
            alone = shared[stem] == 1 and may_be_sequence(stem.lower())
            name = stem if alone else "__".join(place.parts)
            if name in named:
                raise ConfigError(f"{path} and {named[name]} would both be the sequence {name}; rename one")
            named[name] = path
        return named

    def _check_output(self) -> None:
        if self.exist not in ("error", "skip", "overwrite"):
            raise ConfigError(f"exist must be error, skip or overwrite, not {self.exist!r}")
        if self.out_dir.exists() and not self.out_dir.is_dir():
            raise ConfigError(f"{self.out_dir} is no folder; choose another output folder")
        if not self.out_dir.exists() or not any(self.out_dir.iterdir()):
            return
        if self.exist == "error":
            raise ConfigError(
                f"{self.out_dir} is not empty; choose another folder, --exist skip or --exist overwrite"
            )
        planned = {
            path for name in self.sources for n in range(self.settings.count) for path in self._paths(name, n)
        }
        found = {
            p for kind in ("blur", "sharp") for p in self.out_dir.rglob(f"{kind}/*") if p.suffix == ".png"
        }
        foreign = sorted(found - planned)
        if foreign:
            raise ConfigError(
                f"{self.out_dir} holds {len(foreign)} files of other pairs, as {foreign[0]}; remove them"
            )
        if self.exist == "skip" and (self.out_dir / MANIFEST).exists():
            try:
                earlier = json.loads((self.out_dir / MANIFEST).read_text())["settings"]
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{self.out_dir / MANIFEST} is no manifest; use --exist overwrite"
                ) from error
            if earlier != asdict(self.settings):
                raise ConfigError(
                    f"{self.out_dir} was made with {earlier}; use the same settings or --exist overwrite"
                )

    def _paths(self, name: str, number: int) -> tuple[Path, Path]:
        sequence, file = self.out_dir / SPLIT / name, f"{number + 1:06d}.png"
        return sequence / "blur" / file, sequence / "sharp" / file

    def run(self) -> Iterator[SynthResult]:
        """Make the pairs, photograph by photograph; a photograph that fails does not stop the others.

        The manifest is there from the start with its settings and is complete, in `pairs`, after the last one.
        """
        pairs: list[dict[str, Any]] = []
        with held(self.out_dir):
            self._write_manifest(pairs, complete=False)
            for name, source in self.sources.items():
                result = SynthResult(source)
                try:
                    self._make(name, source, result)
                except XYScanError as error:
                    result.error = str(error)
                pairs += result.pairs
                yield result
            self._write_manifest(pairs, complete=True)

    def _make(self, name: str, source: Path, result: SynthResult) -> None:
        for path in self._paths(name, 0):
            remove_leftovers(path.parent)
        photo = read(source)
        rgb = photo.rgb if photo.bit_depth == 8 else np.rint(photo.to_float() * 255).astype(np.uint8)
        for number in range(self.settings.count):
            blur_path, sharp_path = self._paths(name, number)
            record, pictures = self._pair(rgb, name, number, source)
            record = {
                "blur": blur_path.relative_to(self.out_dir).as_posix(),
                "sharp": sharp_path.relative_to(self.out_dir).as_posix(),
                "source": source.relative_to(self.sharp_dir).as_posix(),
                **record,
            }
            if self.exist == "skip" and blur_path.exists() and sharp_path.exists():
                result.kept += 1
            else:
                for path, picture in zip((blur_path, sharp_path), pictures()):
                    write(Photo(picture), path)
            result.pairs.append(record)

    def _pair(self, rgb: np.ndarray, name: str, number: int, source: Path) -> tuple[dict[str, Any], Any]:
        """The parameters of a pair, and a function that renders its blurred and its sharp picture (H, W, 3) uint8."""
        settings = self.settings
        digest = hashlib.sha256(f"{settings.seed}/{name}/{number}".encode(errors="surrogateescape")).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        generator = torch.Generator().manual_seed(int.from_bytes(digest[8:15], "big"))
        strength = random.choice(list(STRENGTHS)) if settings.strength == MIXED else settings.strength
        config = BlurConfig.preset(str(strength))
        m = config.margin
        needed = (settings.crop or 16) + 2 * m
        if min(rgb.shape[:2]) < needed:
            size = f"{rgb.shape[1]} x {rgb.shape[0]}"
            raise InputError(
                f"{source}: {size} pixels are too few, {needed} on each side are needed; leave it out"
            )
        top, left = 0, 0
        if settings.crop is not None:
            top, left = _place(rgb, needed, random)
            rgb = rgb[top : top + needed, left : left + needed]
        height, width = rgb.shape[0] - 2 * m, rgb.shape[1] - 2 * m
        parameters = sample_blur(config, 1, height, width, generator)
        record = {
            "box": [left + m, top + m, left + m + width, top + m + height],
            "strength": str(strength),
            **parameters.describe()[0],
        }

        def pictures() -> tuple[np.ndarray, np.ndarray]:
            scene = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None].float().div_(255)
            blur = render(scene, parameters)[0][0]
            blurred = blur.mul_(255).round_().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
            return blurred, np.ascontiguousarray(rgb[m : m + height, m : m + width])

        return record, pictures

    def _write_manifest(self, pairs: list[dict[str, Any]], *, complete: bool) -> None:
        manifest = {"settings": asdict(self.settings), "complete": complete, "pairs": pairs}
        try:
            write_text(self.out_dir / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        except InputError as error:
            raise ConfigError(f"{error}; choose another output folder") from error


def _place(rgb: np.ndarray, side: int, random: np.random.Generator) -> tuple[int, int]:
    """Top and left of a square about a sharp tile of the photograph, anywhere if it has none."""
    tiles = sharp_tiles(rgb)
    room = rgb.shape[0] - side, rgb.shape[1] - side
    if not len(tiles):
        return int(random.integers(room[0] + 1)), int(random.integers(room[1] + 1))
    centre = tiles[random.integers(len(tiles))] + 128
    top, left = (int(np.clip(c - side // 2, 0, limit)) for c, limit in zip(centre, room))
    return top, left
