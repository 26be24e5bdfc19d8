"""What a training run is: a YAML file, checked before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InputError
from ..models.card import Channel, Normalisation, SegmentationClass
from ..volumes.yaml_text import parse_yaml

__all__ = [
    "ContrastSettings",
    "LabelRow",
    "PairsData",
    "ScheduleSettings",
    "SpatialSettings",
    "SynthesisData",
    "TrainConfig",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelRow(_Strict):
    """Ids of a label map that look alike and belong to one class.

    `tissue` mixes the contrast's tissues ("csf", "grey", "white"), e.g. ``{grey: 0.5,
    white: 0.5}`` for the thalamus; without it the brightness is drawn at random.
    `extra` marks tissue outside the brain, removed from stripped scans.
    """

    name: str
    ids: tuple[int, ...] = Field(min_length=1)
    label: int = Field(ge=0)
    tissue: dict[str, float] = Field(default_factory=dict)
    extra: bool = False


class ContrastSettings(_Strict):
    """How intensities are drawn; `weights` are relative frequencies of the orderings."""

    weights: dict[str, float] = Field(
        default_factory=lambda: {"t1": 0.45, "t2": 0.2, "pd": 0.1, "flair": 0.1, "random": 0.15}
    )
    stripped: float = Field(default=0.5, ge=0, le=1)
    """Share of scans without extra-cerebral tissue."""
    noise: tuple[float, float] = (0.0, 0.06)
    texture: tuple[float, float] = (0.005, 0.05)
    bias: float = Field(default=0.35, ge=0)
    """Largest s.d. of the log bias field."""
    blur: tuple[float, float] = (0.0, 1.0)
    """S.d. of the Gaussian blur, in voxels of the patch."""
    thick_slices: float = Field(default=0.3, ge=0, le=1)
    """Share of scans with one axis of lower resolution."""
    gamma: float = Field(default=0.25, ge=0)


class SpatialSettings(_Strict):
    """How anatomy is deformed; lengths in the unit of the spacing, angles in degrees."""

    rotation: float = 12.0
    scaling: float = 0.12
    shear: float = 0.08
    shift: float = 12.0
    elastic: float = 4.0
    flip: bool = True


class SynthesisData(_Strict):
    """Label maps alone; images are drawn from them."""

    kind: Literal["synthesis"]
    folder: Path
    pattern: str = "*.nii.gz"
    validation: tuple[str, ...] = ()
    """Names (without suffixes) of maps kept for validation."""
    labels: tuple[LabelRow, ...] = Field(min_length=1)
    contrast: ContrastSettings = ContrastSettings()
    spatial: SpatialSettings = SpatialSettings()


class PairsData(_Strict):
    """Images and label maps of the same names in two folders."""

    kind: Literal["pairs"]
    images: Path | None = None
    """None, as `labels`: the cases are given in memory."""
    labels: Path | None = None
    values: tuple[int, ...] = ()
    """Label value of each class; empty: 0, 1, 2, ..."""
    validation: tuple[str, ...] = ()
    validation_share: float = Field(default=0.2, ge=0, lt=1)
    """Used where `validation` is empty and there are three pairs or more."""
    ignore: int | None = None
    """Label value that is not scored (unlabelled voxels)."""
    augment: bool = True
    flip: tuple[bool, bool, bool] = (True, True, True)
    """Axes (z, y, x) that may be mirrored."""
    rotate: Literal["all", "in-plane"] = "all"
    """"in-plane": about z only, for thick slices."""
    foreground: float = Field(default=0.67, ge=0, le=1)
    """Share of patches centred on a voxel that is not background."""


class ScheduleSettings(_Strict):
    """How long and how fast."""

    steps: int = Field(default=1000, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    """Time for the training, interruptions not counted; the run ends at `steps` or then."""
    batch_size: int = Field(default=1, ge=1)
    patch_sizes: tuple[tuple[int, int, int], ...] = ((96, 96, 96),)
    """One is drawn for each step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    decay: Literal["poly", "cosine"] = "cosine"
    warm_up: int = Field(default=50, ge=0)
    clip: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.995, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    class_weights: Literal["none", "sqrt"] = "sqrt"
    """"sqrt": cross-entropy weighted by one over the square root of a class's share."""
    side_loss: float = Field(default=0.5, ge=0)
    """Weight of each deeper side output relative to the one above it (U-Nets)."""
    guidance: tuple[float, float, float] = (1.0, 0.25, 0.1)
    """Guided attention: weights of segmentation, guided and reconstruction loss (the paper's)."""
    mask_loss: float = Field(default=1.0, gt=0)
    """Guided attention with a refinement head: weight of the mask's own loss, where that of
    each of the eight side outputs is 1."""
    detach_targets: bool = False
    """Guided attention: no gradient into what the last two losses compare with."""
    validate_every: int = Field(default=200, ge=1)
    validation_scans: int = Field(default=2, ge=1)
    checkpoint_every: int = Field(default=100, ge=1)
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)


class TrainConfig(_Strict):
    """A whole training run, and the card of the model that comes out of it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)
    title: str
    description: str = ""
    version: str = "1"
    classes: tuple[SegmentationClass, ...] = Field(min_length=2)
    channels: tuple[Channel, ...] = (Channel(name="intensity"),)
    spacing: tuple[float, float, float] | None = None
    unit: Literal["mm", "um", "pixel"] = "mm"
    orientation: Literal["SAR"] | None = None
    normalisation: Normalisation = Normalisation()
    intensity: str = ""
    licence: str = ""
    training_data: str = ""
    citation: str = ""
    limitations: str = ""
    network: dict[str, Any]
    """``name``, perhaps ``preset``, and keyword arguments of the network."""
    data: Annotated[SynthesisData | PairsData, Field(discriminator="kind")]
    schedule: ScheduleSettings = ScheduleSettings()
    seed: int = 0
    init_from: str | None = None
    """A model (name or file) whose weights to start from."""

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if not isinstance(self.network.get("name"), str):
            raise ValueError("network needs a 'name'")
        if isinstance(self.data, SynthesisData):
            worst = max(row.label for row in self.data.labels)
            if worst >= len(self.classes):
                raise ValueError(
                    f"a label row has label {worst}, but there are {len(self.classes)} classes"
                )
            if self.spacing is None:
                raise ValueError("synthesis needs the spacing of the model")
            if len(self.channels) != 1:
                raise ValueError("synthesis makes one channel")
        else:
            values = self.data.values
            if values and len(set(values)) != len(self.classes):
                raise ValueError(
                    f"data.values names {len(values)} label values ({len(set(values))} different), "
                    f"but there are {len(self.classes)} classes"
                )
            if self.data.ignore is not None and self.data.ignore in values:
                raise ValueError(f"{self.data.ignore} can't be a class and the ignore value")
            if len(self.classes) > 254:
                raise ValueError(f"{len(self.classes)} classes; at most 254 can be trained")
        return self

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides: Any) -> TrainConfig:
        """Read and check a configuration.

        Relative folders in the file are relative to it. `overrides` replace top-level keys;
        ``data={...}`` and ``schedule={...}`` are merged.

        Raises
        ------
        InputError
            If the file is missing, not YAML, or a value is wrong (named in the message).
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"training configuration {path} can't be read: {error}") from error
        try:
            raw = parse_yaml(text)
        except yaml.YAMLError as error:
            where = " ".join(str(error).split())
            raise InputError(f"{path} is not valid YAML: {where}") from error
        if not isinstance(raw, dict):
            raise InputError(f"{path} holds no settings; see recipes/ for an example")
        data = raw.get("data")
        if isinstance(data, dict):
            for key in ("folder", "images", "labels"):
                if isinstance(data.get(key), str):
                    data[key] = path.parent / data[key]
        for key, value in overrides.items():
            merged = isinstance(value, dict) and isinstance(raw.get(key), dict)
            raw[key] = {**raw[key], **value} if merged else value
        return cls.checked(raw, str(path))

    @classmethod
    def checked(cls, raw: dict[str, Any], where: str = "training settings") -> TrainConfig:
        """Build from a dict; errors become one line.

        Raises
        ------
        InputError
            If a value is wrong.
        """
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "settings"
            more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
            raise InputError(f"{where}: {place}: {first['msg']}{more}") from error
