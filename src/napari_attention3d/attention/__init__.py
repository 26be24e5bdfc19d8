"""What a network attends to, as volumes in the world."""

from .maps import choose_maps, display_range, map_volumes
from .rows import attention_column, attention_row

__all__ = ["attention_column", "attention_row", "choose_maps", "display_range", "map_volumes"]
