"""What attention maps cost when the mask is made with them, and without, in turn.

    python benchmarks/maps.py [--rounds 5] [--quick] [--json FILE]

The shipped models on the MNI152 template, and the first once more with half a gigabyte, which makes
its pass go plane by plane. One thread, one process; each round runs once with all
maps and once without, the first round uncounted. Medians of processor time; peak of memory above
the start of the run beside what the maps themselves take.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from pathlib import Path

import torch
from comparison.measure import peak_mib

from napari_attention3d.inference.allocator import give_back
from napari_attention3d.models import load_model
from napari_attention3d.session import segment
from napari_attention3d.volumes import read_volume
from napari_attention3d.volumes.samples import mni152_t1_path

CPU = torch.device("cpu")
RUNS = (
    ("brain-attention-unet", None),
    ("brain-attention-unet", 500_000_000),
    ("brain-guided-attention", None),
)
"""Model, bytes that a run may take."""


def once(volume, model, attention, memory):
    """Processor seconds, bytes above the start at the peak, bytes of the maps."""
    options = {"device": "cpu", "precision": "exact", "attention": attention, "memory": memory}
    made = []
    gc.collect()
    give_back()
    begun = time.process_time()
    peak = peak_mib(lambda: made.append(segment(volume, model, **options)), CPU) * 2**20
    lasted = time.process_time() - begun
    return lasted, peak, sum(one.array.nbytes for one in made[0].attention.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    volume, found = read_volume(mni152_t1_path()), {}
    print("| model | mask (s) | with maps (s) | ratio | peak (MB) | with maps | maps (MB) |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, memory in RUNS:
        model = load_model(name)
        title = name if memory is None else f"{name}, {memory / 1e6:.0f} MB"
        rows = {False: [], True: []}
        for number in range((1 if given.quick else given.rounds) + 1):
            for attention in (False, True):
                row = once(volume, model, attention, memory)
                if number:
                    rows[attention].append(row)
        plain, maps = (
            [statistics.median(row[i] for row in rows[on]) for i in range(3)] for on in rows
        )
        ratio = maps[0] / plain[0]
        found[title] = {"mask": rows[False], "maps": rows[True], "ratio": ratio}
        print(
            f"| {title} | {plain[0]:.2f} | {maps[0]:.2f} | {ratio:.3f} | {plain[1] / 1e6:.0f} | "
            f"{maps[1] / 1e6:.0f} | {maps[2] / 1e6:.1f} |",
            flush=True,
        )
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
