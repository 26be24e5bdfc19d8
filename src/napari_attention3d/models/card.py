"""What a model is, besides its weights."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["Channel", "ModelCard", "Normalisation", "SegmentationClass"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SegmentationClass(_Strict):
    """A class: its value in the mask is its place in the list, from 0 (background)."""

    name: str = Field(min_length=1)
    colour: str = Field(pattern=r"^#[0-9a-fA-F]{6}$")
    """"#rrggbb"."""


class Channel(_Strict):
    """An input channel."""

    name: str = Field(min_length=1)
    description: str = ""


class Normalisation(_Strict):
    """How intensities are brought to the network's range.

    ``zscore``: percentiles clipped, then zero mean and unit variance over the voxels
    (all, or only those above `foreground_above`); ``percentile``: `lower` and `upper`
    percentiles to 0 and 1, clipped; ``window``: intensities `lower` to `upper` to 0 and
    1, clipped (CT); ``none``: as they are.
    """

    kind: Literal["zscore", "percentile", "window", "none"] = "percentile"
    lower: float = 0.5
    upper: float = 99.5

    @model_validator(mode="after")
    def _ordered(self) -> Normalisation:
        if self.upper <= self.lower:
            raise ValueError(f"upper ({self.upper}) must be above lower ({self.lower})")
        return self


class ModelCard(_Strict):
    """Everything one must know to use a model rightly.

    The class list starts with the background. `spacing` is (z, y, x) in `unit`; None
    means that the model takes scans at their own spacing. `orientation` "SAR" means
    that axes (z, y, x) must grow towards Superior, Anterior and Right; None: any.
    """

    format_version: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)
    title: str
    description: str = ""
    version: str = "1"
    network: dict[str, Any]
    """Registry name under "name", the network's keyword arguments beside it."""
    classes: tuple[SegmentationClass, ...] = Field(min_length=2)
    channels: tuple[Channel, ...] = Field(min_length=1)
    spacing: tuple[float, float, float] | None = None
    unit: Literal["mm", "um", "pixel"] = "mm"
    orientation: Literal["SAR"] | None = None
    patch_size: tuple[int, int, int] = (96, 96, 96)
    min_overlap: float = Field(default=0.25, ge=0, lt=1)
    normalisation: Normalisation = Normalisation()
    skip_empty: bool = False
    """Tiles that hold one single intensity are background and not computed."""
    intensity: str = ""
    """What intensities are expected, in words ("any MRI contrast; background about 0")."""
    clean_up: tuple[dict[str, Any], ...] = ()
    """Rules that suit its masks, applied on request: plain values for `analysis.cleanup`."""
    licence: str = ""
    training_data: str = ""
    citation: str = ""
    limitations: str = ""
    metrics: dict[str, Any] = Field(default_factory=dict)
    sha256: str = ""
    """Over the sorted tensors' names, dtypes, shapes and bytes; filled on saving."""

    @field_validator("network")
    @classmethod
    def _named(cls, network: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(network.get("name"), str):
            raise ValueError("network needs a 'name' (a network in the registry)")
        return network

    @field_validator("spacing")
    @classmethod
    def _positive(
        cls, spacing: tuple[float, float, float] | None
    ) -> tuple[float, float, float] | None:
        if spacing is not None and min(spacing) <= 0:
            raise ValueError(f"spacing {spacing} must be positive")
        return spacing

    @field_validator("patch_size")
    @classmethod
    def _sized(cls, size: tuple[int, int, int]) -> tuple[int, int, int]:
        if min(size) < 1:
            raise ValueError(f"patch_size {size} must be positive")
        return size

    @property
    def class_names(self) -> list[str]:
        """Names by label value."""
        return [c.name for c in self.classes]
