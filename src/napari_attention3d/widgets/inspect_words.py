"""Answers in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .inspect_tasks import Asked

__all__ = ["answer_text", "trust_words"]

_LITTLE = 0.05
"""Below this share of the features, what position attention adds hardly counts."""


_TRUST = (
    (
        "attention:gate",
        "On the built-in brain model, hiding what it marks hurts the mask about as much as hiding "
        "the mask's own tissue: faithful, deep levels less so. On networks trained for minutes it "
        "was little better than chance. It does not tell classes apart.",
    ),
    (
        "attention:guided",
        "On the built-in brain model, hardly better than chance: pretty rather than faithful.",
    ),
    ("asked", "The read-out tells how much this attention adds; near 0 it is merely pretty."),
    ("request:", "Tells where to doubt the mask, not what it was drawn from."),
    ("moved:", "Tells what painting changed, not whether the mask depends on it."),
    ("uncertainty", "Tells where to doubt the mask, not what it was drawn from."),
)


def trust_words(role: str) -> str:
    """How far to believe a map, as measured (benchmarks/RESULTS.md, "Attention").

    Parameters
    ----------
    role
        Of its layer.
    """
    for head, words in _TRUST:
        if role.startswith(head):
            return f"{words} Test it on your scan: “Is it faithful?”."
    return ""


def answer_text(asked: Asked, scale: str = "") -> str:
    """Tell what came back, and how far to believe it."""
    voxel = ", ".join(f"{v:.0f}" for v in asked.question.voxel)
    lines = [f"Voxel ({voxel})"]
    card = asked.replay.model.card
    answer = asked.answer
    if answer is None:
        for name, value in asked.gates.items():
            title = asked.replay.model.network.map_specs[name].title
            lines.append(f"{title}: {value:.2f}")
        lines.append(f"{card.name} has gates, no position attention: a voxel looks nowhere.")
        return "\n".join(lines)
    best = int(np.argmax(answer.probabilities))
    lines[0] += f": {card.class_names[best]} {answer.probabilities[best]:.2f} in this tile"
    volume = answer.volumes[scale]
    peak = float(volume.array.max())
    if answer.kind in ("row", "hubs"):
        lines.append(f"Peak {peak:.2%} of the attention, {peak * volume.array.size:.0f} x even")
    else:
        lines.append(f"Between {float(volume.array.min()):.2g} and {peak:.2g} of their attention")
    share = _addition(answer.additions, scale)
    little = "hardly counts here" if share < _LITTLE else "counts here"
    lines.append(f"It adds {share:.1%} to the features: it {little}")
    size = " x ".join(
        f"{n * s:.0f}" for n, s in zip(answer.support.shape, answer.support.spacing, strict=True)
    )
    unit = answer.support.unit if answer.support.unit != "pixel" else "voxels"
    where = (
        "A window laid around the voxel, not what made the mask"
        if answer.centred
        else ("The tile that counts most in the mask here")
    )
    lines.append(f"{where}: {size} {unit}, outlined")
    if answer.lost > 0.01:
        lines.append(f"{answer.lost:.0%} of the attention falls outside the scan (filling)")
    if asked.record.provenance is None:
        lines.append(f"Asked {card.name}, which did not make this mask")
    return "\n".join(lines)


def _addition(additions: dict[str, float], scale: str) -> float:
    """Of a scale, or the mean over the last step's."""
    if scale in additions:
        return additions[scale]
    last = max(name.rsplit("-", 1)[1] for name in additions)
    return float(np.mean([v for n, v in additions.items() if n.endswith(f"-{last}")]))
