"""What a network attends to, as volumes in the world."""

from .maps import choose_maps, map_volumes

__all__ = ["choose_maps", "map_volumes"]
