from __future__ import annotations

from dataclasses import replace

from napari_attention3d.attention.cost import pairs, question_seconds


def test_pairs_are_counted_over_all_scales_and_steps(guided, gated):
    look = guided.replay.look(guided.replay.plan.tiles[0])
    expected = sum(r.queries[0, 0].numel() * r.keys[0, 0].numel() for r in look.records.values())
    assert pairs(look) == expected > 0
    name, record = next(iter(look.records.items()))
    windowed = replace(look, records={name: replace(record, window=(2, 2, 2))})
    assert pairs(windowed) == 8 * record.queries[0, 0].numel()
    assert question_seconds(look) > 0
    assert question_seconds(gated.replay.look(gated.replay.plan.tiles[0])) == 0
