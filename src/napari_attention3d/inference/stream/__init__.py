"""The exact pass: a local network over a grid of any length, every voxel computed once.

`record` writes down a network's calls, `graph` makes operations of them, `ops` knows which
planes each operation needs, `run` pushes planes through. Nothing is blended and there are
no seams: the result is that of a single pass over the whole grid, in memory that does not
grow with its longest axis.
"""

from .cut import Window, cut
from .graph import NotStreamable, StreamGraph, record_graph
from .margin import margin, reach
from .memory import peak_bytes
from .run import stream

__all__ = [
    "NotStreamable",
    "StreamGraph",
    "Window",
    "cut",
    "margin",
    "peak_bytes",
    "reach",
    "record_graph",
    "stream",
]
