"""From a scan to the tensor that a network reads, and exactly back to the scan's grid."""

from __future__ import annotations

from .normalise import normalise

__all__ = ["normalise"]
