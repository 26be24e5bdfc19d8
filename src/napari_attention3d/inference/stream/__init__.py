"""The exact pass: a local network over a grid of any length, every voxel computed once.

`graph` records a network's operations, `ops` knows which planes each one needs, `run`
pushes planes through. Nothing is blended and there are no seams: the result is that of a
single pass over the whole grid, in memory that does not grow with its longest axis.
"""

from .graph import NotStreamable, StreamGraph, record_graph
from .margin import margin, reach
from .run import peak_bytes, stream

__all__ = [
    "NotStreamable",
    "StreamGraph",
    "margin",
    "peak_bytes",
    "reach",
    "record_graph",
    "stream",
]
