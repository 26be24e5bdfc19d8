"""Dice and surface distances of a trained network, in tiles and in one pass."""

from __future__ import annotations

import warnings
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from torch import Tensor, nn
from torch.nn import functional as nnf

from napari_attention3d.training.losses import class_dice

from .builders import MULTIPLE
from .cases import IGNORE, Case, Evaluation

MODES = ("tiles", "whole")
"""Tiles of the training patch's size, half overlapping; the whole scan in one pass."""


@torch.inference_mode()
def predict(network: nn.Module, image: Tensor, patch: tuple[int, int, int], mode: str) -> Tensor:
    """Labels (Z, Y, X) of an image (C, Z, Y, X); the same for every network."""
    network.eval()
    if mode == "tiles":
        logits = sliding_window_inference(
            image[None], patch, 1, lambda x: network(x).logits, 0.5, "gaussian"
        )
        return logits[0].argmax(0)
    pad = [n for size in reversed(image.shape[1:]) for n in (0, -size % MULTIPLE)]
    logits = network(nnf.pad(image[None], pad)).logits
    z, y, x = image.shape[1:]
    return logits[0, :, :z, :y, :x].argmax(0)


def surface_distances(prediction: Tensor, scan: Evaluation, classes: int) -> dict[str, Any]:
    """HD95 and mean symmetric surface distance in mm, averaged over the classes.

    Of a class, over the slices (or the scan, where not planar) in which it is both
    predicted and true; `unmatched` is the share of those with one of them only.
    """
    scored = (scan.labels != IGNORE).flatten(1).any(1)
    a, b = (
        nnf.one_hot(x[scored].long().clamp_max(classes - 1), classes).movedim(-1, 1)
        for x in (prediction, scan.labels)
    )  # (slices, K, Y, X)
    spacing: Any = scan.spacing[1:]
    if not scan.planar:
        a, b = (x.movedim(1, 0)[None] for x in (a, b))  # (1, K, Z, Y, X)
        spacing = scan.spacing
    in_a, in_b = (x.flatten(2).any(2)[:, 1:] for x in (a, b))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are absent: see `unmatched`
        both = {
            "hd95": compute_hausdorff_distance(a, b, percentile=95, spacing=spacing),
            "assd": compute_average_surface_distance(a, b, symmetric=True, spacing=spacing),
        }
    found: dict[str, Any] = {}
    for key, value in both.items():
        value = torch.where(in_a & in_b, value, torch.nan).double()
        found[key] = float(value.nanmean(0).nanmean())
    either = (in_a | in_b).sum()
    found["unmatched"] = float((in_a ^ in_b).sum() / either) if either else 0.0
    return found


def _mean(values: list[float]) -> float:
    """Mean of those that are defined, NaN if none is."""
    known = [v for v in values if v == v]
    return sum(known) / len(known) if known else float("nan")


def score(network: nn.Module, case: Case, device: torch.device) -> dict[str, Any]:
    """Scores by group of scans and mode, averaged over the group's scans."""
    gathered: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    count = len(case.classes)
    for scan in case.evaluations:
        by_mode: dict[str, dict[str, Any]] = {}
        for mode in MODES:
            if by_mode and tuple(scan.image.shape[1:]) == tuple(case.patch):
                by_mode[mode] = by_mode[MODES[0]]  # the only tile is the whole scan
                continue
            prediction = predict(network, scan.image.to(device), case.patch, mode).cpu()
            dice = class_dice(prediction, scan.labels, count, IGNORE)
            by_mode[mode] = {
                "dice": dice[1:].tolist(),
                **surface_distances(prediction, scan, count),
            }
        for mode, row in by_mode.items():
            gathered[scan.name][mode].append(row)
    result: dict[str, Any] = {}
    for group, modes in gathered.items():
        result[group] = {}
        for mode, rows in modes.items():
            per_class = np.nanmean([r["dice"] for r in rows], axis=0)
            result[group][mode] = {
                "scans": len(rows),
                "mean_dice": float(np.nanmean(per_class)),
                "dice": dict(zip(case.classes[1:], per_class.tolist(), strict=True)),
                **{key: _mean([r[key] for r in rows]) for key in ("hd95", "assd", "unmatched")},
            }
    return result
