"""The window: thin Qt over the use cases in `session`."""

from __future__ import annotations
