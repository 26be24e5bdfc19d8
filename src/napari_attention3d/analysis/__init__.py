"""Figures about results: how well masks agree, and the demo's report."""

from __future__ import annotations

from .brain_report import brain_report
from .compare import compare_labels

__all__ = ["brain_report", "compare_labels"]
