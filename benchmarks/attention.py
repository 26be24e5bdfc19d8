"""Are attention maps faithful, next to 3D Grad-CAM, and what do they cost?

    python benchmarks/attention.py --image scan.nii.gz --label truth.nii.gz [--json out.json]
        [--image ... --label ...] [--model NAME|FILE] [--windows 2] [--window 48]
        [--fill blur|noise] [--class NAME]

Several scans and several windows in each: the truth is cut into as many slabs along its
longest side, and a window lies around the centre of mass of each. Every map of a model,
Grad-CAM of two of its layers (MONAI's, with the sum of the mask's own logits as score:
Vinogradova et al. 2020, "Seg-Grad-CAM") and three references (the mask itself, its
uncertainty, local contrast of the scan) go through the same deletion and insertion curves,
over all classes and over each --class. Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
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
from napari_attention3d.errors import InputError
from napari_attention3d.inference.tiling import Box
from napari_attention3d.progress import finish

MODELS = ("brain-attention-unet", "brain-guided-attention")
FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


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


def cam_layers(network: Any) -> tuple[str, ...]:
    """Names of the layers that Grad-CAM looks at: the deepest one and the last but one stage."""
    if network.name == "guided-attention":
        return "encoder.layer4", "fuse"
    if hasattr(network, "decoder"):
        return f"encoder.{len(network.encoder) - 1}", "decoder.0"
    return ()


def windows(replay: Replay, truth: Volume, size: int, count: int) -> list[Box]:
    """Return boxes on the model's grid, each around a slab of the truth."""
    inside = np.asarray(truth.array) > 0
    part = ndimage.find_objects(inside.astype(np.uint8))[0]
    extent = [(s.stop - s.start) * g for s, g in zip(part, truth.geometry.spacing, strict=True)]
    axis = int(np.argmax(extent))
    edges = np.linspace(part[axis].start, part[axis].stop, count + 1).round().astype(int)
    boxes = []
    for low, high in itertools.pairwise(edges.tolist()):
        slab = np.zeros_like(inside)
        index = tuple(slice(low, high) if a == axis else slice(None) for a in range(3))
        slab[index] = inside[index]
        centre = ndimage.center_of_mass(slab)
        boxes.append(replay.window_at(replay.on_grid(centre), (size, size, size)))
    return boxes


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
    for layer in cam_layers(replay.network):
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
) -> dict[str, Any]:
    """Test the maps of a model in the windows of a scan; `save` is given what there is so far."""
    model = load_model(name)
    result = segment(scan, model, device="cpu", precision="exact")
    replay = finish(Replay.open(scan, model, result.provenance))
    boxes = windows(replay, truth, args.window, args.windows)
    found: dict[str, Any] = {"rows": [], "windows": [[box.start, box.stop] for box in boxes]}
    if args.repeats:
        found["costs"] = costs(scan, model, replay, boxes[0], args.repeats)
    save(found)
    for number, box in enumerate(boxes):
        for row in of_window(replay, box, model, result.labels, args):
            found["rows"].append({"window": number + 1, **row})
            save(found)
    return found


def of_window(
    replay: Replay, box: Box, model: Any, labels: Volume, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield a row per class, filling and map of a window; a class that is not there has none."""
    names = list(model.card.class_names)
    for label in [None, *(names.index(n) for n in args.classes if n in names)]:
        there = replay.look(box).logits.argmax(0)
        if not bool((there > 0).any() if label is None else (there == label).any()):
            continue
        maps, seconds = candidates(replay, box, model, label)
        for fill in args.fill if label is None else args.fill[:1]:
            options = FaithfulnessOptions(
                fill=fill, block=args.block, fractions=FRACTIONS, orders=args.orders, label=label
            )
            for tested in finish(faithfulness(replay, box, maps, options)):
                row = {
                    "class": "all" if label is None else names[label],
                    "fill": fill,
                    "map": tested.name,
                    "gain": tested.gain,
                    "seconds": seconds.get(tested.name),
                    "areas": {f"{c.direction}, {c.order}": c.area for c in tested.curves},
                }
                if label is None and fill == args.fill[0]:
                    row |= inside(maps[tested.name], labels, replay, box)
                print(f"{row['class']} | {fill} | {tested.name}: {tested.gain:+.3f}", flush=True)
                yield row


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
    try:
        table = attention_shares(values, labels.replace(array=array, geometry=place), {})
    except InputError:  # a map that is 0 all over lies nowhere
        return {"share_inside": None, "times_even": None, "largest": None}
    return {
        "share_inside": table.column("share inside")[-1],
        "times_even": table.column("times even")[-1],
        "largest": table.column("largest value")[-1],
    }


def parser() -> argparse.ArgumentParser:
    """Return the command line's."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--image", type=Path, action="append", default=[])
    made.add_argument("--label", type=Path, action="append", default=[], help="one per image")
    made.add_argument("--quick", action="store_true", help="one window, one fill, no timings")
    made.add_argument("--model", action="append", help="default: both built-in brain models")
    made.add_argument("--fill", action="append", choices=("blur", "noise"))
    made.add_argument("--class", dest="classes", action="append", default=[])
    made.add_argument("--window", type=int, default=48)
    made.add_argument("--windows", type=int, default=2)
    made.add_argument("--block", type=int, default=6)
    made.add_argument("--orders", type=int, default=1, help="random orders")
    made.add_argument("--repeats", type=int, default=3, help="of timings; 0: none")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--json", type=Path)
    return made


def main(given: Sequence[str] | None = None) -> dict[str, Any]:
    """Run; returns what goes into the JSON file."""
    args = parser().parse_args(given)
    if args.quick:
        args.fill, args.windows, args.repeats = args.fill or ["blur"], 1, 0
    args.fill = args.fill or ["blur", "noise"]
    if not args.image:
        print("skipped: give scans with --image and their labels with --label")
    if len(args.image) != len(args.label):
        raise SystemExit(f"{len(args.image)} images and {len(args.label)} labels: give pairs")
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", category=FutureWarning)
    book: dict[str, Any] = {"threads": args.threads, "cases": []}
    for image, label in zip(args.image, args.label, strict=True):
        scan, truth = read_volume(image), read_volume(label).channel(0)
        case: dict[str, Any] = {"case": image.parent.name, "models": {}}
        book["cases"].append(case)
        for name in args.model or MODELS:

            def save(found: Any, name: str = name, case: dict[str, Any] = case) -> None:
                case["models"][Path(name).stem] = found
                if args.json:
                    args.json.write_text(json.dumps(book, indent=1) + "\n")

            run_model(name, scan, truth, args, save)
    print(report(book))
    return book


def report(book: dict[str, Any]) -> str:
    """Return tables of a finished run: per case and model, a column per window and a mean."""
    lines = []
    for case in book["cases"]:
        for name, found in case["models"].items():
            lines += [f"### {case['case']}, {name}", ""]
            kinds = list(dict.fromkeys((r["class"], r["fill"]) for r in found["rows"]))
            for kind in kinds:
                lines += [*_table(kind, found), ""]
            if "costs" in found:
                lines += [*_costs(found), ""]
    return "\n".join(lines)


def _table(kind: tuple[str, str], found: dict[str, Any]) -> list[str]:
    rows = [r for r in found["rows"] if (r["class"], r["fill"]) == kind]
    numbers = sorted({r["window"] for r in rows})
    shares = any("share_inside" in r for r in rows)
    head = [f"{kind[0]}, {kind[1]}", *(f"window {n}" for n in numbers), "mean"]
    head += ["inside the mask", "times even"] if shares else []
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    maps: dict[str, dict[int, Any]] = {}
    for row in rows:
        maps.setdefault(row["map"], {})[row["window"]] = row
    mean = {m: statistics.mean(r["gain"] for r in of.values()) for m, of in maps.items()}
    for title, of in sorted(maps.items(), key=lambda item: -mean[item[0]]):
        cells = [f"{of[n]['gain']:+.3f}" if n in of else "" for n in numbers]
        cells.append(f"{mean[title]:+.3f}")
        if shares:
            cells += [_mean(of, "share_inside", "{:.0f} %"), _mean(of, "times_even", "{:.2f}")]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def _mean(rows: dict[int, Any], key: str, form: str) -> str:
    known = [r[key] for r in rows.values() if r[key] is not None]
    return form.format(statistics.mean(known)) if known else "–"


def _costs(found: dict[str, Any]) -> list[str]:
    cost = found["costs"]
    more = cost["run_with_maps"] / cost["run"] - 1
    lines = [
        f"Maps within a run: {cost['run']:.2f} s without, {cost['run_with_maps']:.2f} s with "
        f"({more:+.1%}); within a pass of the window {cost['pass']:.2f} s and "
        f"{cost['pass_with_maps']:.2f} s."
    ]
    cams: dict[str, list[float]] = {}
    for row in found["rows"]:
        if row["seconds"]:
            cams.setdefault(row["map"].split(", ")[1], []).append(row["seconds"])
    words = "; ".join(f"{n} {statistics.median(s):.2f} s" for n, s in cams.items())
    lines.append(f"Grad-CAM of a window, besides that: {words}.")
    if "ask" in cost:
        lines.append(
            f"Ask a voxel of a kept tile: {1000 * cost['ask']:.0f} ms (all scales and steps); "
            f"who looks here {cost['column']:.2f} s; hubs {cost['hubs']:.2f} s."
        )
    return lines


if __name__ == "__main__":
    main()
