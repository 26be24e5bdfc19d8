"""Are attention maps faithful, next to 3D Grad-CAM, and what do they cost?

    python benchmarks/attention.py --image scan.nii.gz --label truth.nii.gz [--json out.json]
        [--model NAME] [--fill blur|noise] [--window 48] [--class NAME]

The window lies around the truth's centre of mass. Every map of a model, Grad-CAM of two of
its layers (MONAI's, with the sum of the mask's own logits as score: Vinogradova et al. 2020,
"Seg-Grad-CAM") and three references (the mask itself, its uncertainty, local contrast of the
scan) go through the same deletion and insertion curves. Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from napari_attention3d import Volume, load_model, read_volume, segment
from napari_attention3d.attention.ask import ALL_SCALES, ask
from napari_attention3d.attention.faithfulness import FaithfulnessOptions, faithfulness
from napari_attention3d.attention.localise import attention_shares
from napari_attention3d.attention.parts import has_position_attention
from napari_attention3d.attention.replay import Replay
from napari_attention3d.inference.tiling import Box

MODELS = ("brain-attention-unet", "brain-guided-attention")
CAM_LAYERS = {
    "brain-attention-unet": ("encoder.4", "decoder.0"),
    "brain-guided-attention": ("encoder.layer4", "fuse"),
}
FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


def finish(job: Any, say: Callable[[Any], None] = lambda step: None) -> Any:
    while True:
        try:
            say(next(job))
        except StopIteration as stop:
            return stop.value


class SummedLogits(torch.nn.Module):
    """(1, K) scores of a window: each class's logit summed over the voxels that it was given.

    An additional last score is the sum over all of these, the background left out.
    """

    def __init__(self, network: torch.nn.Module, classes: torch.Tensor, count: int) -> None:
        super().__init__()
        self.net = network
        self.given = torch.stack([classes == k for k in range(count)]).float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sums = (self.net(x).logits[0] * self.given).flatten(1).sum(1)
        return torch.cat((sums, sums[1:].sum()[None]))[None]


def grad_cam(network: Any, x: torch.Tensor, layer: str, label: int | None) -> tuple[Any, float]:
    """(z, y, x) heat of MONAI's Grad-CAM for a class (None: all but background); seconds."""
    from monai.visualize import GradCAM

    from napari_attention3d.inference.runner import private_copy

    network = private_copy(network)  # its hooks stay with the copy
    with torch.inference_mode():
        logits = network(x).logits[0]
    wrapped = SummedLogits(network, logits.argmax(0).clone(), len(logits))
    for module in wrapped.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    # MONAI's own postprocessing turns large into small: the plain heat is wanted.
    cam = GradCAM(wrapped, target_layers=f"net.{layer}", postprocessing=lambda heat: heat)
    given = x.clone().requires_grad_(True)
    begin = time.process_time()
    heat = cam(given, class_idx=len(logits) if label is None else label)
    seconds = time.process_time() - begin
    return heat[0, 0].detach().numpy(), seconds


def window(replay: Replay, truth: Volume, size: int) -> Box:
    """Return a box around the truth's centre of mass, on the model's grid."""
    centre = ndimage.center_of_mass(np.asarray(truth.array) > 0)
    return replay.window_at(replay.on_grid(centre), (size, size, size))


def candidates(
    replay: Replay, box: Box, model: Any, label: int | None
) -> tuple[dict[str, Volume], dict[str, float]]:
    """Return maps of a window as volumes, and the seconds that each Grad-CAM took."""
    look = replay.look(box)
    maps = {
        name: Volume(array.numpy(), replay.map_geometry(name, box), name)
        for name, array in look.maps.items()
    }
    gates = [v for n, v in maps.items() if n.startswith("gate")]
    last = [v for n, v in maps.items() if n.endswith(f"step-{len(look.maps) // 4}")]
    if last:
        maps = {v.name: v for v in last}
        stack = [v.array / v.array.mean() for v in last]
        maps["guided, mean of scales"] = last[0].replace(array=np.mean(stack, axis=0))
        centre = [float(n) for n in replay_voxel(replay, box)]
        answer = ask(replay, centre, "hubs", centred=True)
        maps["hubs"] = answer.volumes[ALL_SCALES]
    elif gates:
        place = replay.geometry_of(box)
        up = [ndimage.zoom(g.array, np.divide(box.shape, g.array.shape), order=1) for g in gates]
        maps["gates, product"] = Volume(np.prod(up, axis=0), place, "gates, product")
    place = replay.geometry_of(box)
    x = replay.read(box)
    seconds = {}
    for layer in CAM_LAYERS.get(model.card.name, ()):
        heat, took = grad_cam(replay.network, x, layer, label)
        name = f"Grad-CAM, {layer}"
        maps[name], seconds[name] = Volume(heat, place, name), took
    shares = torch.softmax(look.logits, 0)
    mask = look.logits.argmax(0)
    wanted = mask > 0 if label is None else mask == label
    entropy = -torch.xlogy(shares, shares).sum(0)
    array = x[0, 0].numpy()
    mean = ndimage.gaussian_filter(array, 2)
    spread = ndimage.gaussian_filter(array * array, 2) - mean * mean
    for name, values in (
        ("reference: the mask itself", ndimage.gaussian_filter(wanted.numpy().astype("f4"), 2)),
        ("reference: uncertainty", entropy.numpy()),
        ("reference: local contrast", np.sqrt(np.clip(spread, 0, None))),
    ):
        maps[name] = Volume(values.astype(np.float32), place, name)
    return maps, seconds


def replay_voxel(replay: Replay, box: Box) -> Any:
    """Return the scan's voxel in the middle of a box."""
    world = replay.geometry_of(box).to_world([(n - 1) / 2 for n in box.shape])
    return replay.volume.geometry.to_index(world)


def median(function: Callable[[], Any], count: int) -> float:
    function()
    taken = []
    for _ in range(count):
        begin = time.process_time()
        function()
        taken.append(time.process_time() - begin)
    return statistics.median(taken)


def costs(scan: Volume, model: Any, replay: Replay, box: Box, repeats: int) -> dict[str, Any]:
    """Seconds of a run with and without maps, in turns; of maps in a pass; of an answer."""
    plain, with_maps = [], []
    for attention in (False, True) * (repeats + 1):
        begin = time.process_time()
        segment(scan, model, device="cpu", precision="exact", attention=attention)
        (with_maps if attention else plain).append(time.process_time() - begin)
    x = replay.read(box)
    found: dict[str, Any] = {
        "run": statistics.median(plain[1:]),
        "run_with_maps": statistics.median(with_maps[1:]),
        "pass": median(lambda: replay.forward(x), repeats + 2),
        "pass_with_maps": median(lambda: replay.forward(x, return_maps=True), repeats + 2),
    }
    if has_position_attention(replay.network):
        voxel = [float(v) for v in replay_voxel(replay, box)]
        ask(replay, voxel)
        found["ask"] = median(lambda: ask(replay, voxel), 20)
        for kind in ("column", "hubs"):
            found[kind] = median(lambda kind=kind: ask(replay, voxel, kind), 3)  # type: ignore
    return found


def run_model(
    name: str, scan: Volume, truth: Volume, args: argparse.Namespace, save: Callable[[Any], None]
) -> None:
    model = load_model(name)
    result = segment(scan, model, device="cpu", precision="exact")
    replay = finish(Replay.open(scan, model, result.provenance))
    box = window(replay, truth, args.window)
    names = list(model.card.class_names)
    found: dict[str, Any] = {"rows": [], "box": [box.start, box.stop]}
    found["costs"] = costs(scan, model, replay, box, 3)
    save(found)
    for label in [None, *(names.index(n) for n in args.classes if n in names)]:
        maps, seconds = candidates(replay, box, model, label)
        for fill in args.fill if label is None else args.fill[:1]:
            options = FaithfulnessOptions(
                fill=fill, block=args.block, fractions=FRACTIONS, orders=1, label=label
            )
            for tested in finish(faithfulness(replay, box, maps, options)):
                row = {
                    "model": name,
                    "class": "all" if label is None else names[label],
                    "fill": fill,
                    "map": tested.name,
                    "gain": tested.gain,
                    "seconds": seconds.get(tested.name),
                    "areas": {f"{c.direction}, {c.order}": c.area for c in tested.curves},
                }
                if label is None and fill == args.fill[0]:
                    row |= inside(maps[tested.name], result.labels, replay, box)
                found["rows"].append(row)
                print(f"{name} | {row['class']} | {fill} | {tested.name}: {tested.gain:+.3f}")
            save(found)


def inside(values: Volume, labels: Volume, replay: Replay, box: Box) -> dict[str, Any]:
    """Where a map of a window lies, against the mask in that window."""
    low = replay.volume.geometry.to_index(replay.geometry_of(box).to_world((0, 0, 0)))
    last = [n - 1 for n in box.shape]
    high = replay.volume.geometry.to_index(replay.geometry_of(box).to_world(last))
    start = np.clip(np.round(np.minimum(low, high)), 0, None).astype(int)
    stop = np.round(np.maximum(low, high)).astype(int) + 1
    part = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    array = np.asarray(labels.array)[part]
    place = labels.geometry.cropped(start.tolist(), array.shape)
    table = attention_shares(values, labels.replace(array=array, geometry=place), {})
    return {
        "share_inside": table.column("share inside")[-1],
        "times_even": table.column("times even")[-1],
        "largest": table.column("largest value")[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--label", type=Path, required=True, help="where the window lies")
    parser.add_argument("--model", action="append", help="default: both built-in brain models")
    parser.add_argument("--fill", action="append", choices=("blur", "noise"))
    parser.add_argument("--class", dest="classes", action="append", default=[])
    parser.add_argument("--window", type=int, default=48)
    parser.add_argument("--block", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.fill = args.fill or ["blur", "noise"]
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", category=FutureWarning)
    scan, truth = read_volume(args.image), read_volume(args.label).channel(0)
    book: dict[str, Any] = {"case": args.image.parent.name, "threads": args.threads, "models": {}}
    for name in args.model or MODELS:

        def save(found: Any, name: str = name) -> None:
            book["models"][name] = found
            if args.json:
                args.json.write_text(json.dumps(book, indent=1) + "\n")

        run_model(name, scan, truth, args, save)
    print(report(book))


def report(book: dict[str, Any]) -> str:
    """Return tables of a finished run."""
    lines = []
    for name, found in book["models"].items():
        lines += [f"### {name}", "", "| map | inside the mask | times even |", "|---|---|---|"]
        kinds = sorted({(r["class"], r["fill"]) for r in found["rows"]}, key=str)
        heads = " | ".join(f"{c}, {f}" for c, f in kinds)
        lines[-2:] = [
            f"| map | {heads} | inside the mask | times even |",
            "|---" * (len(kinds) + 3) + "|",
        ]
        order: dict[str, dict[Any, Any]] = {}
        for row in found["rows"]:
            order.setdefault(row["map"], {})[row["class"], row["fill"]] = row
        first = next(iter(order.values()))
        main_kind = next(iter(first))
        for title, rows in sorted(order.items(), key=lambda item: -item[1][main_kind]["gain"]):
            gains = " | ".join(f"{rows[k]['gain']:+.3f}" if k in rows else "" for k in kinds)
            base = next(r for r in rows.values() if "share_inside" in r)
            lines.append(
                f"| {title} | {gains} | {base['share_inside']:.0f} % | {base['times_even']:.2f} |"
            )
        cost = found["costs"]
        more = cost["run_with_maps"] / cost["run"] - 1
        lines += [
            "",
            f"Maps within a run: {cost['run']:.2f} s without, {cost['run_with_maps']:.2f} s with "
            f"({more:+.1%}); within a pass of the window {cost['pass']:.2f} s and "
            f"{cost['pass_with_maps']:.2f} s.",
        ]
        cams = {r["map"]: r["seconds"] for r in found["rows"] if r["seconds"]}
        lines.append(
            "Grad-CAM of the window, besides that: "
            + "; ".join(f"{n.split(', ')[1]} {s:.2f} s" for n, s in cams.items())
            + "."
        )
        if "ask" in cost:
            lines.append(
                f"Ask a voxel of a kept tile: {1000 * cost['ask']:.0f} ms (all scales and steps); "
                f"who looks here {cost['column']:.2f} s; hubs {cost['hubs']:.2f} s."
            )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
