"""Check an installed copy: it lies in FOLDER, with its manifest and readable weights.

usage: python check_installed.py FOLDER
"""

from __future__ import annotations

import sys
from importlib.metadata import distribution
from pathlib import Path

import napari_attention3d
from napari_attention3d.models.store import list_models, load_model
from napari_attention3d.volumes import read_volume
from napari_attention3d.volumes.samples import phantom_paths


def main(folder: str) -> None:
    """Raise SystemExit with a message if something is missing."""
    package = Path(napari_attention3d.__file__).resolve().parent
    if not package.is_relative_to(Path(folder).resolve()):
        sys.exit(f"imported from {package}, not from {folder}")
    manifest = package / "napari.yaml"
    if manifest.is_symlink() or "contributions:" not in manifest.read_text(encoding="utf-8"):
        sys.exit(f"{manifest} is not a manifest")
    groups = {e.group for e in distribution("napari-attention3d").entry_points}
    if "napari.manifest" not in groups:
        sys.exit("the entry point napari.manifest is missing")
    built_in = [info for info in list_models() if info.built_in]
    if not built_in:
        sys.exit("no built-in model came along")
    for info in built_in:
        model = load_model(info.name)
        count = sum(weights.numel() for weights in model.network.parameters())
        print(f"{info.name}: {count:,} parameters")
    phantom = read_volume(phantom_paths()["mri"])
    print(f"sample volume {phantom.name}: {phantom.geometry.shape}")


if __name__ == "__main__":
    main(sys.argv[1])
