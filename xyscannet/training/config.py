"""The training configuration: typed, frozen, checked as a whole before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from xyscannet.addresses import Address, place_of
from xyscannet.data.blur import STRENGTHS, BlurConfig
from xyscannet.losses import LossConfig


def _refuse_address(text: str | None) -> str | None:
    if text is not None and isinstance(place_of(text), Address):
        raise ValueError(f"{text} is an address, and training reads this from the machine that it runs on")
    return text


LocalPath = Annotated[str, AfterValidator(_refuse_address)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class PairsConfig(_Section):
    """Pairs of blurred and sharp images on the disk: a set of a known name, any set in a folder, or two folders."""

    dataset: str | None = None
    """gopro, hide, realblur-j or realblur-r; null for whatever `root` holds."""
    root: LocalPath | None = None
    """The set's folder, or one that holds it; null for the folders of XYSCAN_DATA."""
    split: Literal["train", "test"] = "train"
    """test where it is to validate on."""
    gamma: bool = False
    """GoPro's blur_gamma in place of blur."""
    blur: LocalPath | None = None
    sharp: LocalPath | None = None
    """Two folders of any pairs, in place of `dataset` and `root`."""
    weight: float = Field(1.0, gt=0)
    """How often a crop is drawn from here, relative to the other sources."""

    @model_validator(mode="after")
    def _check(self) -> PairsConfig:
        if (self.blur is None) != (self.sharp is None):
            raise ValueError("blur and sharp are two folders: give both")
        if self.blur is None and self.dataset is None and self.root is None:
            raise ValueError("give a dataset, a root, or blur and sharp")
        if self.blur is not None and (self.dataset or self.root):
            raise ValueError("give blur and sharp, or dataset and root, not both")
        if self.blur is not None and self.gamma:
            raise ValueError("gamma is of a dataset or root, and blur and sharp are any two folders")
        return self


class DataConfig(_Section):
    """Where training pairs come from: sharp photographs blurred on the fly, pairs on the disk, or both."""

    photos: tuple[LocalPath, ...] = ()
    """Folders or .tar files of sharp photographs."""
    photos_weight: float = Field(1.0, gt=0)
    """How often a crop is drawn from the photographs, relative to the sets of `pairs`."""
    pairs: tuple[PairsConfig, ...] = ()
    validation: LocalPath | None = None
    """Folder of sharp photographs for validation and for choosing the best weights; never trained on."""
    patch: int = Field(128, ge=16)
    """Side of a training crop in pixels."""
    batch: int = Field(4, ge=1)
    """Crops of a step, over all processes together."""
    scale: tuple[float, float] = (0.5, 1.0)
    """Range of the random factor by which a photo is downscaled before cropping."""
    blur: BlurConfig = Field(default_factory=BlurConfig)
    prefetch: int = Field(3, ge=1)
    """Batches made ahead by the background threads."""
    workers: int = Field(1, ge=1)
    """Background threads of each process that make batches."""
    cache_megapixels: float = Field(2000.0, gt=0)
    """Held in memory, 3 bytes a pixel, of photographs and again of pairs. Photographs beyond are left out with a
    warning, pairs decoded each time."""
    sharp_crops: float = Field(0.9, ge=0, le=1)
    """Share of the crops that are placed on a sharp tile of a photo."""

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"scale must be two factors with 0 < low <= high <= 1, not {low}, {high}")
        return self


class Stage(_Section):
    """One stage of a progressive schedule: patch and batch until a fraction of the run is done."""

    until: float = Field(gt=0, le=1)
    patch: int = Field(ge=16)
    batch: int = Field(ge=1)


_Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimiserConfig(_Section):
    """Adam, AdamW or Muon under a cosine from `lr` to `min_lr`, after a linear warm-up."""

    kind: Literal["adam", "adamw", "muon"] = "adam"
    """muon takes the matrices inside the network, and Adam the rest."""
    lr: float = Field(2.2e-4, gt=0, allow_inf_nan=False)
    min_lr: float = Field(1e-7, ge=0)
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    eps: float = Field(1e-15, gt=0)
    """Adam's. Gradients of the scanners' weights start between 1e-8 and 1e-14: a larger eps would hold them still."""
    weight_decay: float = Field(0.0, ge=0)
    warmup: int = Field(0, ge=0)
    """Steps of linear warm-up."""
    clip_norm: float | None = Field(1.0, gt=0)
    """Largest norm of the whole gradient; null for no clipping."""

    @model_validator(mode="after")
    def _check(self) -> OptimiserConfig:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}")
        return self


class ValidationConfig(_Section):
    """The fixed validation set: pairs on the disk, whole, or seeded blur of the strengths in turn on sharp photos."""

    every: int = Field(1000, ge=1)
    pairs: PairsConfig | None = None
    """Pairs to validate on, in place of the photographs of data.validation."""
    crop: int | None = Field(256, ge=32)
    """Side of the photos' central crops; null for whole photos. Pairs are always whole."""
    images: int | None = Field(15, ge=1)
    """At most so many, spread evenly over the set; null for all."""
    strengths: tuple[Literal[tuple(STRENGTHS)], ...] = Field(tuple(STRENGTHS), min_length=1)  # type: ignore[valid-type]
    seed: int = 2024

    @field_validator("pairs", mode="before")
    @classmethod
    def _on_the_test_split(cls, value: Any) -> Any:
        return {"split": "test", **value} if isinstance(value, Mapping) else value


class TrainConfig(_Section):
    """One training run. Exactly one of `iterations` and `time_budget_minutes` drives the schedule."""

    name: str = "run"
    seed: int = Field(0, ge=0, lt=2**63)
    model: str | dict[str, Any] = "xyscannet-s"
    """A name of the zoo, or the fields of XYScanNetConfig."""
    start_from: str | None = None
    """Weights to start from, of a smaller network too, which then grows: a name, a file or its address; random where
    null."""
    init: Literal["default", "lecun-normal"] = "default"
    """Random weights, where nothing is started from: as the layers draw them, or so that signals keep their size."""
    data: DataConfig = Field(default_factory=DataConfig)
    stages: tuple[Stage, ...] = ()
    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig)
    accumulate: int = Field(1, ge=1)
    """Parts that a process splits its crops of a step into, to need less memory; the step stays the same."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    loss: LossConfig = Field(default_factory=LossConfig)
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """bf16 is by autocast, weights stay fp32; auto takes it where the device multiplies it fast."""
    compile: bool = False
    cuda_graphs: bool = True
    """On one GPU, replay training steps from CUDA graphs; not with `compile` or `accumulate`."""
    deterministic: bool = False
    """Only algorithms that give the same bits each time: two runs of one seed then have one loss curve."""
    iterations: int | None = Field(None, ge=1, strict=True)
    time_budget_minutes: float | None = Field(None, gt=0)
    """Wall-clock minutes of the whole run, validation included; a resumed run goes on counting."""
    log_every: int = Field(20, ge=1)
    save_every: int = Field(500, ge=1)
    keep_states: int = Field(2, ge=1)
    """States kept for --resume."""
    keep_last: int = Field(0, ge=0)
    """Numbered snapshots of the averaged weights kept beside last and best."""
    tensorboard: bool = True
    """Write TensorBoard's event files, with restored validation images."""
    validation: ValidationConfig = Field(default_factory=ValidationConfig)

    @field_validator("loss")
    @classmethod
    def _check_loss(cls, value: LossConfig) -> LossConfig:
        _refuse_address(value.perceptual_weights)
        return value

    @field_validator("model")
    @classmethod
    def _check_model(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        network_config(value)
        return value

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if (self.iterations is None) == (self.time_budget_minutes is None):
            raise ValueError("give exactly one of iterations and time_budget_minutes")
        untils = [stage.until for stage in self.stages]
        if self.data.validation and self.validation.pairs:
            raise ValueError("validate on data.validation or on validation.pairs, not both")
        if untils and (untils != sorted(set(untils)) or untils[-1] != 1):
            raise ValueError(f"the stages' until must grow and end at 1, not {untils}")
        return self

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(patch, batch) of the stages, one after the other; of the data where there are none."""
        return tuple((stage.patch, stage.batch) for stage in self.stages or (self.data,))

    def stage_at(self, progress: float) -> int:
        """Number, from 0, of the stage at a fraction of the run."""
        before = [stage for stage in self.stages if progress >= stage.until]
        return min(len(before), len(self.shapes) - 1)

    def shape_at(self, progress: float) -> tuple[int, int]:
        """(patch, batch) at a fraction of the run."""
        return self.shapes[self.stage_at(progress)]

    def to_yaml(self) -> str:
        """The resolved configuration; `load_config` reads it back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def network_config(model: str | Mapping[str, Any]) -> Any:
    """The XYScanNetConfig that `TrainConfig.model` names or spells out. Raises ConfigError."""
    from xyscannet.models import XYScanNetConfig, zoo

    if isinstance(model, str):
        return zoo.info(model).config
    return XYScanNetConfig.from_dict(dict(model))


def changes(before: TrainConfig, now: TrainConfig) -> list[str]:
    """The settings that differ, each as "optimiser.lr: 0.0002 -> 0.0001"."""
    then, given = _flat(before.model_dump(mode="json")), _flat(now.model_dump(mode="json"))
    keys = [key for key in {**then, **given} if then.get(key) != given.get(key)]
    return [f"{key}: {then.get(key)} -> {given.get(key)}" for key in keys]


def validates_alike(one: TrainConfig, other: TrainConfig) -> bool:
    """Whether two runs validate on the same images, whenever they do."""
    same = other.validation.model_copy(update={"every": one.validation.every}) == one.validation
    return same and one.data.validation == other.data.validation


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in section.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {}
        found |= inner or {prefix + name: value}
    return found
