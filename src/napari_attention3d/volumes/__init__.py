"""Volumes: read a scan, know where it lies, write a result back on the same grid."""

from __future__ import annotations

from .io import read_volume, write_volume
from .volume import Volume

__all__ = ["Volume", "read_volume", "write_volume"]
