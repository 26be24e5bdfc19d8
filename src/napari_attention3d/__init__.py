"""Attention networks for segmenting 3D scans, in napari and without it.

The public names are loaded on first use, so that importing the package (and opening
napari's plugin menu) loads neither torch nor Qt.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .correction.use_case import Refinement, refine
    from .errors import Attention3DError
    from .geometry import Geometry
    from .models.store import Model, list_models, load_model
    from .session import Segmentation, SegmentOptions, segment
    from .volumes import Volume, read_volume, write_volume

__version__ = "0.1.0"

_WHERE = {
    "Attention3DError": ".errors",
    "Geometry": ".geometry",
    "Model": ".models.store",
    "Refinement": ".correction.use_case",
    "SegmentOptions": ".session",
    "Segmentation": ".session",
    "Volume": ".volumes",
    "list_models": ".models.store",
    "load_model": ".models.store",
    "read_volume": ".volumes",
    "refine": ".correction.use_case",
    "segment": ".session",
    "write_volume": ".volumes",
}

__all__ = [
    "Attention3DError",
    "Geometry",
    "Model",
    "Refinement",
    "SegmentOptions",
    "Segmentation",
    "Volume",
    "__version__",
    "list_models",
    "load_model",
    "read_volume",
    "refine",
    "segment",
    "write_volume",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
