"""Who changed how a layer looks, so that all comes back in whatever order they let go."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["Dress"]

Wanted = Mapping["Layer", Mapping[str, Any]]
"""Per layer: attribute and value, or a function that makes it of the value underneath."""


class _Setting:
    """One attribute of one layer: what the person had, and who wants what instead."""

    def __init__(self, own: Any) -> None:
        self.own = own
        self.ours: Any = None
        self.wishes: dict[Hashable, Any] = {}


class Dress:
    """Lets several owners change the same layers; the newest wish counts.

    What the person sets meanwhile stays: wishes that were there by then count no longer.
    """

    def __init__(self) -> None:
        self._layers: weakref.WeakKeyDictionary[Layer, dict[str, _Setting]] = (
            weakref.WeakKeyDictionary()
        )

    def claim(self, owner: Hashable, wanted: Wanted) -> None:
        """Set what an owner wants from now on, in place of all that it wanted before."""
        for layer, settings in list(self._layers.items()):
            for name in list(settings):
                if owner in settings[name].wishes and name not in wanted.get(layer, {}):
                    del settings[name].wishes[owner]
                    self._apply(layer, name)
        for layer, values in wanted.items():
            for name, value in values.items():
                settings = self._layers.setdefault(layer, {})
                now = getattr(layer, name)
                setting = settings.get(name)
                if setting is None or (now != setting.ours and owner not in setting.wishes):
                    setting = settings[name] = _Setting(now)  # the person's choice is underneath
                elif now != setting.ours:
                    continue  # the person has chosen anew
                setting.wishes[owner] = value
                self._apply(layer, name)

    def release(self, owner: Hashable) -> None:
        """Take back all that an owner wanted."""
        self.claim(owner, {})

    def own(self, layer: Layer, name: str) -> Any:
        """What a setting is without us."""
        setting = self._layers.get(layer, {}).get(name)
        now = getattr(layer, name)
        return now if setting is None or now != setting.ours else setting.own

    def _apply(self, layer: Layer, name: str) -> None:
        setting = self._layers[layer][name]
        if setting.ours is not None and getattr(layer, name) != setting.ours:
            if not setting.wishes:
                del self._layers[layer][name]
            return
        value = setting.own
        if setting.wishes:
            newest = list(setting.wishes.values())[-1]
            value = newest(setting.own) if callable(newest) else newest
        if getattr(layer, name) != value:
            setattr(layer, name, value)
        setting.ours = getattr(layer, name)
        if not setting.wishes:
            del self._layers[layer][name]
