"""Two processes with half a batch each make the step of one with the whole batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from napari_attention3d.errors import InputError
from napari_attention3d.models.store import load_model
from napari_attention3d.training import TrainConfig, run_folder, train_job
from napari_attention3d.training.processes import Processes, joined

WORKER = Path(__file__).with_name("ddp_worker.py")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start_two(config, output):
    """Start both processes with the environment that torchrun gives; wait for them."""
    for _ in range(3):  # somebody else may take the port in between
        codes, said = _both(config, output)
        if "EADDRINUSE" not in said:
            break
    assert codes == [0, 0], said[-3000:]


def _both(config, output):
    base = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(config), str(output)],
            env=base | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=280)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], "\n".join(said)


@pytest.mark.skipif(sys.platform != "linux", reason="the loopback device is called lo on Linux")
def test_two_processes_train_as_one_with_the_whole_batch(pairs, pairs_config, tmp_path):
    config = pairs_config(pairs, steps=4)
    raw = config.model_dump(mode="json", exclude_none=True)
    # Small steps: AdamW makes a whole step of the last digit of a gradient near 0.
    raw["schedule"] |= {"learning_rate": 1e-4, "ema": 0.0}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    for _ in train_job(TrainConfig.from_yaml(path), one):
        pass
    start_two(path, two)
    first, second = (
        torch.load(run_folder(p) / "checkpoint.pt", weights_only=True) for p in (one, two)
    )
    assert first["step"] == second["step"] == 4
    for key, value in first["network"].items():
        torch.testing.assert_close(second["network"][key], value, atol=1e-4, rtol=1e-2)
    # gradients themselves: AdamW's first moments, which no step size hides
    for mine, theirs in zip(
        first["optimiser"]["state"].values(), second["optimiser"]["state"].values(), strict=True
    ):
        scale = float(mine["exp_avg"].abs().max()) + 1e-6
        torch.testing.assert_close(theirs["exp_avg"], mine["exp_avg"], atol=2e-2 * scale, rtol=0)
    assert load_model(two).card.metrics["validation_mean_dice"] == pytest.approx(
        load_model(one).card.metrics["validation_mean_dice"], abs=0.02
    )


def test_a_batch_is_shared_evenly_or_refused():
    assert [Processes(rank, 2).share(6) for rank in range(2)] == [(3, 0), (3, 3)]
    with pytest.raises(InputError, match="multiple of 4"):
        Processes(0, 4).share(6)


def test_alone_without_torchrun(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as processes:
        assert processes == Processes()
        assert processes.is_first
        assert processes.agree(3.5) == 3.5
        assert processes.device("auto") == "auto"
        module = torch.nn.Linear(1, 1)
        assert processes.wrap(module) is module
