"""Many scans: which, where to, one after the other or on many machines; a run again."""

from __future__ import annotations

from .outcome import Outcome, summary
from .plan import Plan, find_scans, plan_outputs, split_suffix
from .run import Machine, run_all, segment_file

__all__ = [
    "Machine",
    "Outcome",
    "Plan",
    "find_scans",
    "plan_outputs",
    "run_all",
    "segment_file",
    "split_suffix",
    "summary",
]
