"""What an XYScanNet is made of, in one frozen, validated dataclass."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any

from xyscannet.errors import ConfigError

SCANNERS = ("intra", "inter", "ss2d")
FUSIONS = ("klff", "aff", "none")
GATES = ("element", "mean")
MOST = {"width": 4096, "blocks": 128, "ffn_expansion": 64, "d_state": 4096, "d_conv": 64, "expand": 64}


@dataclass(frozen=True)
class XYScanNetConfig:
    """Hyper-parameters of `XYScanNet`; the defaults are the network of the paper's tables (C = 48, 7.30 M).

    Attributes:
        width: channels C of level 1; levels 2 and 3 have 2C and 4C.
        encoder_blocks: number of encoder blocks at levels 1, 2, 3.
        decoder_blocks: number of decoder blocks at levels 1, 2, 3.
        ffn_expansion: hidden width of the feed-forward part (GDFN) over its input width.
        d_state: states per channel of the selective scan.
        d_conv: taps of the mixer's causal convolution.
        expand: inner width of the mixer over its input width.
        scanners: kinds of the two VSSMs of a decoder block, "intra" or "inter"; the paper's hybrid is
            ("intra", "inter"), its Table 7 also has ("intra", "intra") and ("inter", "inter"). "ss2d" puts
            MambaIR's flatten-and-scan module in a VSSM's place, ("ss2d", "ss2d") is the variant of Table 5;
            of the mixer's options only d_state is that module's.
        bidirectional: scan each sequence in both directions with one set of weights and add the results
            (Table 6). The default is one direction. Not for "ss2d", which scans four ways.
        fusion: how encoder levels meet at the skips: "klff" (Section 3.4), "aff" (MIMO-UNet's), "none".
        gate: KLFF's attention, "element" (Eq. 6, one value an element) or "mean" (one value an image, which
            is what the authors' released weights were trained with).

    No size may exceed `MOST`, far above any network that could run, so that a file whose header asks for more is
    refused before anything is built.

    Raises:
        ConfigError: a value is out of range or of the wrong kind.
    """

    width: int = 48
    encoder_blocks: tuple[int, int, int] = (3, 3, 6)
    decoder_blocks: tuple[int, int, int] = (3, 3, 6)
    ffn_expansion: float = 1.0
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    scanners: tuple[str, str] = ("intra", "inter")
    bidirectional: bool = False
    fusion: str = "klff"
    gate: str = "element"

    def __post_init__(self) -> None:
        for name in ("encoder_blocks", "decoder_blocks", "scanners"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)):
                raise ConfigError(f"{name} must be a list, not {value!r}")
            object.__setattr__(self, name, tuple(value))
        for name in ("width", "d_state", "d_conv", "expand"):
            whole = f"a whole number from 1 to {MOST[name]}"
            _require(_is_int(getattr(self, name), 1, MOST[name]), name, getattr(self, name), whole)
        _require(self.width % 2 == 0, "width", self.width, "even (each half is scanned in its own direction)")
        for name in ("encoder_blocks", "decoder_blocks"):
            blocks = getattr(self, name)
            ok = len(blocks) == 3 and all(_is_int(n, 0, MOST["blocks"]) for n in blocks)
            _require(ok, name, blocks, f"three whole numbers from 0 to {MOST['blocks']}")
        ok = isinstance(self.ffn_expansion, (int, float)) and 0 < self.ffn_expansion <= MOST["ffn_expansion"]
        ok = ok and round(self.width * self.ffn_expansion) >= 1
        _require(
            ok,
            "ffn_expansion",
            self.ffn_expansion,
            f"a positive number, at most {MOST['ffn_expansion']}",
        )
        ok = len(self.scanners) == 2 and all(s in SCANNERS for s in self.scanners)
        _require(ok, "scanners", self.scanners, f"two of {SCANNERS}")
        _require(isinstance(self.bidirectional, bool), "bidirectional", self.bidirectional, "true or false")
        if self.bidirectional and "ss2d" in self.scanners:
            raise ConfigError("bidirectional does not go with the scanner 'ss2d', which scans four ways")
        _require(self.fusion in FUSIONS, "fusion", self.fusion, f"one of {FUSIONS}")
        _require(self.gate in GATES, "gate", self.gate, f"one of {GATES}")

    @property
    def size_multiple(self) -> int:
        """Height and width are padded to a multiple of this inside the network."""
        return 4

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON or YAML."""
        plain = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> XYScanNetConfig:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: an unknown key (the nearest known name is given) or a bad value.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"
                raise ConfigError(f"unknown network option {key!r}{hint}")
        return cls(**values)


def _is_int(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _require(condition: bool, name: str, value: Any, what: str) -> None:
    if not condition:
        raise ConfigError(f"{name} must be {what}, not {value!r}")
