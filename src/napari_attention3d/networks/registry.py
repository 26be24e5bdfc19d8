"""Networks by name: registering one makes it trainable, loadable, testable, selectable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..errors import InputError
from .base import SegmentationNetwork

__all__ = ["build_network", "network_names", "network_presets", "register"]

_NETWORKS: dict[str, type[SegmentationNetwork]] = {}
_PRESETS: dict[str, dict[str, dict[str, Any]]] = {}

N = TypeVar("N", bound=type[SegmentationNetwork])


def register(name: str, presets: Mapping[str, Mapping[str, Any]] | None = None) -> Callable[[N], N]:
    """Class decorator: make a network known under `name`, with named sizes.

    Raises
    ------
    ValueError
        If the name is taken.
    """

    def decorate(cls: N) -> N:
        if name in _NETWORKS:
            raise ValueError(f"two networks are registered as {name!r}")
        cls.name = name
        _NETWORKS[name] = cls
        _PRESETS[name] = {key: dict(value) for key, value in (presets or {}).items()}
        return cls

    return decorate


def network_names() -> list[str]:
    """Names that `build_network` knows."""
    return sorted(_NETWORKS)


def network_presets(name: str) -> dict[str, dict[str, Any]]:
    """Named sizes of a network, as keyword arguments."""
    _known(name)
    return {key: dict(value) for key, value in _PRESETS[name].items()}


def build_network(name: str, *, preset: str | None = None, **config: Any) -> SegmentationNetwork:
    """Build a network by name from a preset, keyword arguments, or both (these win).

    Raises
    ------
    InputError
        If the name, the preset or an argument is not known, or a value is invalid.
    """
    cls = _known(name)
    settings: dict[str, Any] = {}
    if preset is not None:
        if preset not in _PRESETS[name]:
            known = ", ".join(sorted(_PRESETS[name]))
            raise InputError(f"network {name!r} has no size {preset!r}; it has: {known}")
        settings.update(_PRESETS[name][preset])
    settings.update(config)
    try:
        return cls(**settings)
    except (TypeError, ValueError) as error:
        text = " ".join(str(error).split())[:300]  # torch's may have many lines
        raise InputError(f"network {name!r} can't be built: {text}") from error


def _known(name: str) -> type[SegmentationNetwork]:
    if name not in _NETWORKS:
        raise InputError(
            f"network {name!r} is not known; choose one of: {', '.join(network_names())}"
        )
    return _NETWORKS[name]
