"""Networks, training and scores of the comparison, at tiny sizes."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import report
from comparison.builders import BUILDERS, GROUPS, TITLES, build, parameter_count
from comparison.cases import IGNORE, Case, Evaluation
from comparison.scoring import predict, score, surface_distances
from comparison.training import RATE, Trainer, cosine_rate, run

from napari_attention3d.networks import NetworkOutput

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", BUILDERS)
def test_each_network_trains_on_partial_labels(name):
    torch.manual_seed(0)
    network = build(name, 3)
    trainer = Trainer(network, torch.ones(3), IGNORE, CPU)
    before = [p.detach().clone() for p in network.parameters()]
    labels = torch.randint(3, (1, 32, 32, 32))
    labels[:, ::2] = IGNORE
    loss = trainer.step(torch.rand(1, 1, 32, 32, 32), labels)
    assert math.isfinite(loss)
    moved = [not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    assert network(torch.rand(1, 1, 32, 32, 32)).logits.shape == (1, 3, 32, 32, 32)


def test_networks_are_of_comparable_size_and_named():
    assert set(TITLES) == set(BUILDERS) == {n for names in GROUPS.values() for n in names}
    counts = [parameter_count(build(name, 2)) for name in GROUPS["all"]]
    assert max(counts) < 2 * min(counts)


def test_the_plain_network_has_no_gates():
    assert not build("plain-unet", 2).map_specs
    assert build("attention-unet", 2).map_specs


def test_the_rate_warms_up_and_falls_to_a_hundredth():
    rates = [cosine_rate(step, 600) for step in range(600)]
    assert max(rates) == RATE
    assert rates[0] < rates[10] < RATE
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] == pytest.approx(RATE / 100)


class Threshold(torch.nn.Module):
    """Class 1 where the image is above a half."""

    def forward(self, x):
        return NetworkOutput(torch.cat((0.5 - x, x - 0.5), dim=1), {}, ())


def sphere(radius=6.0, shift=0):
    z, y, x = torch.meshgrid(*[torch.arange(24.0) - 11] * 3, indexing="ij")
    return ((z**2 + y**2 + (x - shift) ** 2) <= radius**2).long()


@pytest.mark.parametrize("mode", ["tiles", "whole"])
def test_prediction_has_the_size_of_the_scan(mode):
    truth = sphere()[:, :21, :19]
    found = predict(Threshold(), truth[None].float(), (16, 16, 16), mode)
    assert torch.equal(found, truth)


@pytest.mark.parametrize("planar", [True, False])
def test_distances_of_a_perfect_and_a_shifted_mask(planar):
    scan = Evaluation("a", sphere()[None].float(), sphere(), (3.0, 2.0, 2.0), planar)
    exact = surface_distances(sphere(), scan, 2)
    assert exact == {"hd95": 0, "assd": 0, "unmatched": 0}
    shifted = surface_distances(sphere(shift=2), scan, 2)
    assert 2 <= shifted["hd95"] <= 4 + 1e-6  # 2 voxels of 2 mm
    assert 0 < shifted["assd"] < shifted["hd95"]


def test_slices_that_are_not_scored_count_nowhere():
    truth = sphere()
    truth[:11] = IGNORE
    scan = Evaluation("a", sphere()[None].float(), truth, (1.0, 1.0, 1.0), planar=True)
    wrong = sphere()
    wrong[:11] = 1
    assert surface_distances(wrong, scan, 2) == {"hd95": 0, "assd": 0, "unmatched": 0}
    case = Case("a", ["background", "ball"], (16, 16, 16), None, [scan])
    found = score(Threshold(), case, CPU)["a"]
    assert found["tiles"]["mean_dice"] == found["whole"]["mean_dice"] == 1


def test_a_missed_structure_is_reported_as_unmatched():
    scan = Evaluation("a", sphere()[None].float(), sphere(), (1.0, 1.0, 1.0), planar=True)
    found = surface_distances(torch.zeros_like(sphere()), scan, 2)
    assert found["unmatched"] == 1
    assert math.isnan(found["hd95"])


class Spheres:
    ignore = None

    def batch(self, step, patch, size):
        return sphere()[None, None, :16, :16, :16].float(), sphere()[None, :16, :16, :16]

    def shares(self):
        return torch.tensor([0.9, 0.1])


def test_a_run_is_recorded_once_and_tabulated(tmp_path):
    scan = Evaluation("held", sphere()[None].float(), sphere(), (1.0, 1.0, 1.0), planar=False)
    case = Case("d04", ["background", "ball"], (16, 16, 16), Spheres(), [scan])
    records = [record for _, record in run(case, "plain-unet", 0, 2, CPU) if record is not None]
    assert len(records) == 1
    about = {"date": "2026-11-23", "threads": 1, "device": "cpu"}
    report.add_run(tmp_path, records[0] | {"machine": about})
    read = report.read_runs(tmp_path)
    assert [report.identity(r) for r in read] == [("d04", "plain-unet", 0, 2)]
    table = report.markdown(read, None)
    assert TITLES["plain-unet"] in table
    assert f"{records[0]['scores']['held']['whole']['mean_dice']:.3f}" in table


def test_undefined_distances_are_null_and_left_out_of_means(tmp_path):
    def one(seed, distance):
        row = {"mean_dice": 0.5, "hd95": distance, "assd": distance, "unmatched": 0.0}
        scores = {"held": {mode: row | {"dice": {"ball": 0.5}} for mode in ("tiles", "whole")}}
        keys = {"case": "d04", "network": "guided", "seed": seed, "steps": 2}
        report.add_run(tmp_path, keys | {"scores": scores})

    one(0, math.nan)
    assert report.read_runs(tmp_path)[0]["scores"]["held"]["whole"]["hd95"] is None
    one(1, 4.0)
    row = report.quality_table(report.read_runs(tmp_path), "d04", ["guided"])[-1]
    assert row.endswith("| 2 | 0.500 ± 0.000 | 4.0 | 4.00 | 0 ± 0 |")


def test_of_two_records_of_a_run_the_first_counts(tmp_path):
    keys = {"case": "d04", "network": "guided", "seed": 0, "steps": 2}
    for number in (1, 2):
        report.add_run(tmp_path, keys | {"number": number})
    report.add_run(tmp_path, keys | {"seed": 1, "number": 3})
    assert [r["number"] for r in report.read_runs(tmp_path)] == [1, 3]


def test_a_section_is_replaced_where_it_stands_and_nothing_else(tmp_path):
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\n## A\n\none\n\n## B\n\ntwo\n")
    report.update_section(path, "A", "new\n\n### below\n")
    assert path.read_text() == "# Results\n\n## A\n\nnew\n\n### below\n\n## B\n\ntwo\n"
    report.update_section(path, "B", "last")
    report.update_section(path, "C", "added")
    expected = "# Results\n\n## A\n\nnew\n\n### below\n\n## B\n\nlast\n\n## C\n\nadded\n"
    assert path.read_text() == expected
