"""Who computes: this package, MONAI's sliding window, nnU-Net's predictor, one single pass."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import zarr
from torch import Tensor, nn

from napari_attention3d.geometry import Geometry
from napari_attention3d.inference import device, plans
from napari_attention3d.models.store import Model
from napari_attention3d.progress import finish
from napari_attention3d.session import SegmentOptions, segment_job
from napari_attention3d.volumes.volume import Volume

__all__ = ["run"]

Labels = npt.NDArray[np.uint8]


class Logits(nn.Module):
    """A network that returns a tensor, as the others expect."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(B, K, Z, Y, X)."""
        return self.network(x).logits


def run(how: dict[str, Any], scan: Path, model: Model, out: Path | None) -> tuple[Any, str]:
    """Segment a scan on disk; returns labels (or None if they went to `out`) and the plan."""
    return globals()[f"_{how['who']}"](how, scan, model, out)


PREPARED = ("openvino", "compiled")


def prepared(who: str, model: Model, scan: Path) -> Any:
    """The network compiled for the whole scan, which is not part of the time."""
    shape = (1, 1, *zarr.open_array(scan, mode="r").shape)
    network = Logits(model.network).eval()
    if who == "compiled":
        import torch._inductor.config as inductor

        inductor.freezing = True
        return torch.compile(network, dynamic=False)
    import openvino

    made = openvino.convert_model(network, example_input=torch.zeros(shape), input=list(shape))
    threads = torch.get_num_threads()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    return openvino.Core().compile_model(made, "CPU", options)


def _openvino(how: dict[str, Any], scan: Path, model: Any, out: Path | None) -> tuple[Any, str]:
    logits = model(_read(scan)[None].numpy())[0]
    return logits[0].argmax(0).astype(np.uint8), "one pass, OpenVINO fp32"  # numpy's is quick


def _compiled(how: dict[str, Any], scan: Path, model: Any, out: Path | None) -> tuple[Any, str]:
    with torch.inference_mode():
        logits = model(_read(scan)[None])
    return _labels(logits[0]).numpy(), "one pass, torch.compile"


def _ours(how: dict[str, Any], scan: Path, model: Model, out: Path | None) -> tuple[Any, str]:
    array = zarr.open_array(scan, mode="r")
    volume = Volume(array, Geometry(array.shape, np.eye(4), "mm", True), name="scan")
    options = {
        key: how[key]
        for key in ("memory", "attention", "tile", "overlap", "region", "precision")
        if key in how
    }
    options = SegmentOptions(device="cpu", **({"precision": "exact"} | options))
    with _planes(how.get("planes")), _gain(how.get("forced")):
        if out is None:
            result = finish(segment_job(volume, model, options))
            labels = np.asarray(result.labels.array)
        else:
            result, labels = _to_zarr(volume, model, options, out), None
    return labels, plan_text(result.provenance, result.warnings)


def _to_zarr(volume: Volume, model: Model, options: SegmentOptions, out: Path) -> Any:
    from napari_attention3d.inference.store import ZarrStore

    paths = {"labels": out}
    with ZarrStore(paths, volume.geometry, volume.name, model.card.class_names) as store:
        return finish(segment_job(volume, model, options, allocate=store.allocate))


@contextmanager
def _planes(count: int | None) -> Iterator[None]:
    before = plans.PLANES
    plans.PLANES = count or before
    try:
        yield
    finally:
        plans.PLANES = before


@contextmanager
def _gain(forced: str | None) -> Iterator[None]:
    """Take half precision whether it is faster here or not."""
    before = device.bfloat16_gain
    if forced:
        device.bfloat16_gain = lambda: 9.0
    try:
        yield
    finally:
        device.bfloat16_gain = before


def plan_text(provenance: dict[str, Any], warnings: list[str]) -> str:
    """In a few words, how it was computed."""
    plan = provenance["plan"]
    if plan["engine"] == "exact":
        text = f"exact, {plan['planes']} planes"
        text += f" in {plan['columns']} columns" if plan["columns"] > 1 else ""
    else:
        text = f"{plan['tiles']} tiles of {' x '.join(map(str, plan['tile']))}"
        text += f", batch {plan['batch']}" if plan["batch"] > 1 else ""
    text += f", {provenance['precision']}"
    return text + ("; " + "; ".join(warnings) if warnings else "")


def _labels(logits: Tensor) -> Tensor:
    """Everybody's labels; torch's argmax takes up to 15 times as long over the first axis."""
    winners = logits[1] > logits[0] if len(logits) == 2 else logits.max(0).indices
    return winners.to(torch.uint8)


def _read(scan: Path) -> Tensor:
    return torch.from_numpy(np.asarray(zarr.open_array(scan, mode="r")[:]))[None]


@contextmanager
def _autocast(how: dict[str, Any]) -> Iterator[None]:
    with (
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16, enabled=bool(how.get("bf16"))),
    ):
        yield


def _single(how: dict[str, Any], scan: Path, model: Model, out: Path | None) -> tuple[Any, str]:
    x = _read(scan)[None]
    with _autocast(how):
        logits = model.network(x).logits
    return _labels(logits[0]).numpy(), "one pass"


def _monai(how: dict[str, Any], scan: Path, model: Model, out: Path | None) -> tuple[Any, str]:
    from monai.inferers import sliding_window_inference

    x = _read(scan)[None]
    with _autocast(how):
        logits = sliding_window_inference(
            x,
            how["tile"],
            how.get("batch", 1),
            Logits(model.network),
            how["overlap"],
            "gaussian",
        )
        labels = _labels(logits[0]).numpy()
    if out is not None:
        zarr.save_array(out, labels)
    text = f"tiles of {how['tile'][0]}, overlap {how['overlap']}, batch {how.get('batch', 1)}"
    return labels, text + (", bf16" if how.get("bf16") else "")


def _nnunet(how: dict[str, Any], scan: Path, model: Model, out: Path | None) -> tuple[Any, str]:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(
        tile_step_size=1 - how["overlap"],
        use_mirroring=False,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.network = Logits(model.network)
    predictor.configuration_manager = SimpleNamespace(patch_size=tuple(how["tile"]))
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=model.network.num_classes)
    predictor.allowed_mirroring_axes = None
    logits = predictor.predict_sliding_window_return_logits(_read(scan))
    labels = _labels(logits).numpy()
    return labels, f"nnU-Net's window of {how['tile'][0]}, step {1 - how['overlap']}"


def timed(call: Any) -> tuple[Any, float, float]:
    """A call's result, processor seconds and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = call()
    return result, time.process_time() - cpu, time.perf_counter() - wall
