"""HDR10's static metadata: what display a clip was graded on (SMPTE ST 2086), and how bright it gets (CTA-861.3)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

PQ = 16  # the transfer function of HDR10, by its number in ITU-T H.273
_CHROMATICITY, _LUMINANCE = 50_000, 10_000  # x265's units per 1 and per cd/m2


@dataclass(frozen=True)
class Display:
    """The mastering display: chromaticities (x, y) of its red, green, blue and white; its range in cd/m2."""

    primaries: tuple[tuple[Fraction, Fraction], ...]
    least: Fraction
    most: Fraction


@dataclass(frozen=True)
class HDR10:
    """The metadata; either part may be missing. `light` is the brightest pixel and frame (MaxCLL, MaxFALL), cd/m2."""

    display: Display | None
    light: tuple[int, int] | None

    def options(self, encoder: str) -> dict[str, str] | None:
        """Options for FFmpeg's encoder of that name that write the metadata; None where it has none."""
        if encoder == "libx265":
            display = self._display(lambda value: f"{round(value * _CHROMATICITY)}", _LUMINANCE)
            parts = [("master-display", display), ("max-cll", self._light())]
            return {"x265-params": _joined([*parts, ("hdr10", "1")])}
        if encoder == "libsvtav1":
            display = self._display(lambda value: f"{float(value):.5f}", 1)
            return {
                "svtav1-params": _joined([("mastering-display", display), ("content-light", self._light())])
            }
        return None

    def _display(self, chromaticity: Any, unit: int) -> str | None:
        if self.display is None:
            return None
        red, green, blue, white = (",".join(map(chromaticity, point)) for point in self.display.primaries)
        most, least = (f"{float(value * unit):.10g}" for value in (self.display.most, self.display.least))
        return f"G({green})B({blue})R({red})WP({white})L({most},{least})"

    def _light(self) -> str | None:
        return None if self.light is None else ",".join(map(str, self.light))


def _joined(parts: list[tuple[str, str | None]]) -> str:
    return ":".join(f"{name}={value}" for name, value in parts if value is not None)


def of_frame(frame: Any) -> HDR10 | None:
    """The metadata that a decoded frame (`av.VideoFrame`) carries."""
    display, light = _display_of(frame), _light_of(frame)
    return None if display is None and light is None else HDR10(display, light)


def _display_of(frame: Any) -> Display | None:
    """FFmpeg's AVMasteringDisplayMetadata: ten rationals, then whether the chromaticities and the range are set."""
    side = frame.side_data.get("MASTERING_DISPLAY_METADATA")
    if side is None:
        return None
    *numbers, has_primaries, has_luminance = np.frombuffer(side, np.int32)[:22].tolist()
    if not (has_primaries and has_luminance) or not all(numbers[1::2]):
        return None
    values = [Fraction(*pair) for pair in zip(numbers[::2], numbers[1::2])]
    return Display(tuple(zip(values[:8:2], values[1:8:2])), *values[8:])


def _light_of(frame: Any) -> tuple[int, int] | None:
    side = frame.side_data.get("CONTENT_LIGHT_LEVEL")
    return None if side is None else tuple(np.frombuffer(side, np.uint32)[:2].tolist())
