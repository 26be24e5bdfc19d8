from __future__ import annotations

from napari_attention3d.cli import doctor


def test_doctor_tells_versions_device_and_models(run):
    found = run("doctor", "--json").json
    assert found["device"].split(":")[0] in ("cpu", "cuda", "mps")
    assert found["why this device"]
    assert found["packages"]["torch"]
    assert found["threads"] >= 1
    table = run("doctor")
    assert table.code == 0
    assert found["device"] in table.out


def test_what_is_missing_is_a_problem_with_its_cure():
    found = {"qt": {}, "packages": {"nilearn": None}, "models": []}
    problems = doctor._problems(found, [])
    assert len(problems) == 3
    assert any("napari-attention3d[all]" in problem for problem in problems)
