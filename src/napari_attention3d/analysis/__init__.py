"""Figures about masks, and clean masks: measures, how well two agree, rules; the demo's report."""

from __future__ import annotations

from .brain_report import brain_report
from .compare import compare_labels

__all__ = ["brain_report", "compare_labels"]
