"""Take the pictures of the Inspect tab from the real program.

    scripts/with-screen.sh python scripts/inspect_pictures.py [NAME ...]
        [-o docs/images] [--data FOLDER]

NAME: ask, 3d and paint (guided brain model), brain (gated brain model), ct and nuclei (of
networks that are trained here on the scans of FOLDER, a few minutes each, and kept in
build/pictures; docs/attention.md says where these scans are from). Default: all of them that can
be taken. Windows are drawn at 1.5 times, canvases at twice the resolution of a screen.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIZE = (1360, 960)
PANEL = 560
"""Edge of a part of a figure, in pixels."""
EDGE = 600
"""Edge of the canvas on the screen."""
GUIDED, GATED = "brain-guided-attention", "brain-attention-unet"
MNI = "MNI152 T1"
SCANS = {  # folder of FOLDER with image and label, the scan's name, the model's
    "ct": ("d01_ct_abdomen", "abdomen.nii.gz", "ct-organs"),
    "nuclei": ("d03_nuclei_ovule1135", "ovule.tif", "ovule-nuclei"),
}
MADE = Path("build/pictures")
WINDOWS = {"ct": (-160.0, 240.0)}
"""Intensities among which the tissue is seen, of scans that have more."""
MOST = 390_000
"""Bytes of a picture."""


def main() -> None:
    """Take the pictures that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="ask, 3d, paint, brain, ct, nuclei")
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/images"))
    shared = os.environ.get("NA3D_SHARED_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=shared, help="folder of ct and nuclei")
    parser.add_argument("--minutes", type=float, default=5, help="of training for ct and nuclei")
    parser.add_argument("--paint-seconds", type=int, default=120, help="of the training")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.names:
        args.names = ["ask", "3d", "paint", "brain"]
        there = [name for name in SCANS if (args.data / SCANS[name][0]).is_dir()]
        args.names += there
        for name in set(SCANS) - set(there):
            print(f"inspect-{name}.png stays: {args.data / SCANS[name][0]} is not there (--data)")
    trained = {name: train(name, args.data, args.minutes) for name in SCANS if name in args.names}
    if "ask" in args.names:
        os.environ.setdefault("QT_SCALE_FACTOR", "1.5")
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["NAPARI_CONFIG"] = str(Path(temporary) / "settings.yaml")
        os.environ.setdefault("NAPARI_ATTENTION3D_MODELS", str(Path(temporary) / "models"))
        guided = [name for name in ("ask", "3d", "paint") if name in args.names]
        if guided:
            Figures(args, GUIDED).take(guided)
        if "brain" in args.names:
            Figures(args, GATED).take(["brain"])
        for name, (scan, model) in trained.items():
            figures = Figures(args, str(model), scan)
            figures.scan.contrast_limits = WINDOWS.get(name, figures.scan.contrast_limits)
            figures.take([name])


def train(name: str, data: Path, minutes: float) -> tuple[Path, Path]:
    """A scan and a network trained on it, unless that was done before: their files."""
    source, scan_name, model_name = SCANS[name]
    _, dot, suffix = scan_name.partition(".")
    folder = MADE / name
    scan, model = folder / scan_name, folder / f"{model_name}.safetensors"
    if model.exists():
        return scan, model
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    image = data / source / f"image{dot}{suffix}"
    shutil.copy(image, scan)
    shutil.copy(image, folder / "imagesTr" / f"case_0000{dot}{suffix}")
    shutil.copy(data / source / f"label{dot}{suffix}", folder / "labelsTr" / f"case{dot}{suffix}")
    told = json.loads((data / "labels.json").read_text())[source]
    about = {
        "channel_names": {"0": "CT" if name == "ct" else "nuclei"},
        "labels": {words.split(" (")[0]: int(value) for value, words in told.items()},
        "numTraining": 1,
        "file_ending": f"{dot}{suffix}",
    }
    (folder / "dataset.json").write_text(json.dumps(about))
    command = [sys.executable, "-c", "from napari_attention3d.cli import main; main()", "train"]
    command += [str(folder), "--preset", "quick", "--minutes", str(minutes), "-o", str(model)]
    subprocess.run(command, check=True)
    return scan, model


class Figures:
    """A viewer with a run of a model, and the pictures that are taken of it.

    Parameters
    ----------
    args
        Of the command line.
    model, scan
        What is run on what; None: the MNI152 template.
    """

    def __init__(self, args: argparse.Namespace, model: str, scan: Path | None = None) -> None:
        import napari
        from napari.settings import get_settings

        from napari_attention3d.widgets.demo import _segment, arrange_view, settle

        get_settings().application.confirm_close_window = False
        self.args = args
        self.viewer = napari.Viewer(title="napari")
        self.viewer.window.resize(*SIZE)
        _, self.dock = self.viewer.window.add_plugin_dock_widget(
            "napari-attention3d", "Attention 3D"
        )
        if scan is None:
            self.viewer.open_sample("napari-attention3d", "mni152")
        else:
            self.viewer.open(str(scan), plugin="napari-attention3d")
        _segment(self.dock, model)
        arrange_view(self.viewer)
        self.panel = self.dock.inspect
        names = [self.dock.tabs.tabText(i) for i in range(self.dock.tabs.count())]
        self.dock.tabs.setCurrentIndex(names.index("Inspect"))
        self.scan = self.panel.runs.chooser.layer
        settle(500)

    def take(self, names: list[str]) -> None:
        """Take pictures; the viewer is closed then."""
        for name in names:
            if name != "ask":
                self.square()
            take = {"ask": self.ask, "3d": self.asked_3d, "paint": self.paint}.get(name)
            if take is not None:
                take()
            else:
                self.figure(name)
        self.viewer.close()

    # ---- pictures

    def ask(self) -> None:
        """The whole window after a voxel between the ventricles was asked, with lines."""
        from napari_attention3d.widgets.demo import settle, wait_until

        panel = self.panel
        for layer in self.viewer.layers:
            layer.opacity = 1.0 if layer is self.scan else layer.opacity
        for entry in panel.maps.entries:
            entry.layer.visible = False
        panel.asking.form.lines_box.setChecked(True)
        panel.asking.form.probe_button.setChecked(True)
        wait_until(lambda: not panel.runs.is_busy)
        panel.asking.ask((94.0, 116.0, 98.0))
        wait_until(lambda: panel.asking.last is not None and not panel.runs.is_busy)
        settle(1200)
        self.window("inspect-ask.png")

    def asked_3d(self) -> None:
        """The same answer in 3D: the mask in grey, the box of what could be seen around it."""
        from napari_attention3d.widgets.demo import wait_until

        panel = self.panel
        if panel.asking.last is None:
            panel.asking.form.lines_box.setChecked(True)
            panel.asking.ask((94.0, 116.0, 98.0))
            wait_until(lambda: panel.asking.last is not None and not panel.runs.is_busy)
        for entry in panel.maps.entries:
            entry.layer.visible = entry.group == "Answers"
        self.in_3d(zoom=0.8)
        self.grey_mask(0.25)
        self.scan.visible = False
        self.save([self.canvas(1.5)], "inspect-3d.png", names=False)
        self.in_2d()

    def paint(self) -> None:
        """Strokes "look here" and "not here", and what they moved."""
        from napari_attention3d.widgets.demo import settle, wait_until

        panel, section = self.panel, self.panel.paint
        panel.asking.clear()
        panel.asking.form.probe_button.setChecked(False)
        self.viewer.dims.order = (0, 1, 2)
        z, y, x = (n // 2 for n in self.scan.data.shape)
        self.viewer.dims.set_point(0, float(self.scan.data_to_world((z, y, x))[0]))
        for value, start in ((1, x - 6), (2, x + self.scan.data.shape[2] // 5)):
            section.choose(value)
            layer = section.layer()
            layer.brush_size = 10
            for column in range(start, start + 14, 2):
                layer.paint((z, y, column), value)
        section.seconds_spin.setValue(self.args.paint_seconds)
        section.start()
        wait_until(lambda: not panel.runs.is_busy)
        print(section.result_label.text())
        section.layer().mode = "pan_zoom"
        self.nearer()
        settle(800)
        self.save([self.canvas(1.5)], "inspect-paint.png", names=False)

    def figure(self, name: str) -> None:
        """A figure: the mask on the scan; the map on the scan; the map through the mask in 3D."""
        from napari_attention3d.widgets.inspect_look import role_of

        if name in SCANS:
            self.viewer.dims.order = (0, 1, 2)
        self.viewer.reset_view()
        gates = [e for e in self.panel.maps.entries if role_of(e.layer) == "attention:gate-level-2"]
        for entry in self.panel.maps.entries:
            entry.layer.visible = False
        mask = self.panel.runs.mask_layer()
        self.scan.opacity, mask.contour, mask.opacity = 1.0, 1, 1.0
        self.nearer()
        parts = [self.canvas()]
        gate, blending = gates[0].layer, gates[0].layer.blending
        if is_narrow(gate):
            self.panel.maps.choose(gate)
            self.panel.view.stretch_box.setChecked(True)
        # In place of adding up: a gate that is open all over would make the scan white.
        gate.visible, gate.opacity, gate.blending = True, 0.6, "translucent_no_depth"
        mask.visible = False
        self.nearer()
        parts.append(self.canvas())
        mask.visible, gate.blending = True, blending
        self.panel.view.dark_box.setChecked(True)
        self.in_3d(zoom=0.62 if name == "nuclei" else 0.8)  # a cube, or flat
        self.grey_mask(0.3)
        gate.opacity = 0.9
        parts.append(self.canvas())
        self.in_2d()
        self.save(parts, f"inspect-{name}.png", names=True)

    # ---- the view

    def square(self) -> None:
        """Leave nothing but the canvas in the window, and make it a square."""
        from napari_attention3d.widgets.demo import settle

        qt = self.viewer.window._qt_viewer
        qt.dockLayerList.hide()
        qt.dockLayerControls.hide()
        window = self.viewer.window._qt_window
        for _ in range(4):
            settle(400)
            native = qt.canvas.native
            size = window.size()
            wanted = size.width() + EDGE - native.width(), size.height() + EDGE - native.height()
            if wanted == (size.width(), size.height()):
                break
            window.resize(*wanted)
        self.viewer.reset_view()

    def in_3d(self, zoom: float) -> None:
        """Turn to 3D: from above, in front and one side, all in view."""
        self.viewer.dims.order = (0, 1, 2)
        self.viewer.dims.ndisplay = 3
        camera = self.viewer.scene.camera
        camera.orientation = ("towards", "up", "right")
        self.viewer.reset_view()
        camera.set_view_direction((-0.55, -0.7, 0.45), (1, 0, 0))
        camera.zoom *= zoom

    def nearer(self) -> None:
        """Let the scan fill the canvas."""
        self.viewer.reset_view()
        self.viewer.scene.camera.zoom *= 1.04

    def in_2d(self) -> None:
        """Turn back, the mask in its colours."""
        mask = self.panel.runs.mask_layer()
        if hasattr(self, "colours"):
            mask.colormap = self.colours
        self.viewer.dims.ndisplay = 2
        self.viewer.reset_view()

    def grey_mask(self, opacity: float) -> None:
        """Show the mask in grey, so that the map has all the colour."""
        from napari.utils.colormaps import DirectLabelColormap

        mask = self.panel.runs.mask_layer()
        self.colours = mask.colormap
        table = dict.fromkeys(range(1, 64), "#b8b8b8") | {0: "transparent", None: "#b8b8b8"}
        mask.colormap = DirectLabelColormap(color_dict=table)
        mask.opacity = opacity

    def canvas(self, larger: float = 1.0) -> Any:
        """Return the canvas, which is a square, with a scale bar."""
        from PIL import Image

        from napari_attention3d.widgets.demo import settle
        from napari_attention3d.widgets.inspect_snapshot import canvas_picture

        settle(1500)
        picture = Image.fromarray(canvas_picture(self.viewer)).convert("RGBA")
        return picture.resize((round(PANEL * larger),) * 2, Image.Resampling.LANCZOS)

    # ---- files

    def save(self, parts: list[Any], name: str, *, names: bool) -> None:
        """Join parts, with colour bars and names of labels beside them."""
        import numpy as np
        from PIL import Image

        from napari_attention3d.widgets.inspect_snapshot import _keys, compose, save_image

        whole = Image.new("RGBA", (sum(p.width + 6 for p in parts) - 6, parts[0].height), "white")
        left = 0
        for part in parts:
            whole.paste(part, (left, 0))
            left += part.width + 6
        keys = _keys(self.panel.runs.mask_layer()) if names else []
        place = ", ".join(f"{v:.3g}" for v in self.viewer.dims.point[-3:])
        unit = self.panel.runs.source().shown.unit.replace("um", "µm")
        caption = f"{self.scan.name}, at z, y, x = {place} {unit}"
        path = self.args.out / name
        array = np.ascontiguousarray(np.asarray(whole))
        save_image(compose(array, self.panel.maps.shown, keys, caption), path)
        shrink(path)

    def window(self, name: str) -> None:
        """Save the whole window."""
        from PIL import Image

        path = self.args.out / name
        self.viewer.status = "Ready"
        shot = self.viewer.screenshot(canvas_only=False, flash=False)
        Image.fromarray(shot).convert("RGB").save(path)
        shrink(path)


def is_narrow(layer: Any) -> bool:
    """Whether a map fills less than half of its stated range."""
    import numpy as np

    from napari_attention3d.widgets.inspect_look import sample

    first, last = np.percentile(sample(layer), (1, 99.8))
    low, high = layer.contrast_limits
    return bool(last - first < (high - low) / 2)


def shrink(path: Path) -> None:
    """Store a picture well; make one smaller that is too large, and leave it all its colours."""
    from PIL import Image

    whole = picture = Image.open(path).convert("RGB")
    picture.save(path, optimize=True)
    share = 1.0
    while path.stat().st_size > MOST:
        share -= 0.06
        size = round(share * whole.width), round(share * whole.height)
        picture = whole.resize(size, Image.Resampling.LANCZOS)
        picture.save(path, optimize=True)
    print(f"{path} {picture.width} x {picture.height}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
