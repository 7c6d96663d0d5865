"""The plan: what it lists, what it counts, and that it leaves nothing behind."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import svdhooks
from svdhooks.planning import Plan, words
from svdhooks.planning.costs import Timer, _smaller
from svdhooks.planning.twins import advice, twins
from tests.models import Tied, mlp
from tests.plain import hooks_on

X = torch.randn(50, 4)


def _rows(plan: Plan) -> dict[str, Any]:
    return {row.name: row for row in plan.layers}


def test_it_lists_what_a_recorder_watches_and_skips():
    model = nn.Sequential(mlp(4, 6, 3), nn.LayerNorm((2, 3)))
    plan = svdhooks.plan(model, taps={"hidden": "0.1"})
    with svdhooks.watch(
        model, None, sinks=[svdhooks.MemorySink()], taps={"hidden": "0.1"}
    ) as recorder:
        assert [row.name for row in plan.layers] == [x.name for x in recorder.watched]
    assert _rows(plan)["hidden"].kind == "tap"
    assert _rows(plan)["0.0"].shape == (6, 4)
    assert {entry.name for entry in plan.skipped} == {"1.weight", "1.bias"}


def test_a_tied_weight_is_not_counted_twice():
    rows = _rows(svdhooks.plan(Tied(), quantities="weight_spectrum"))
    assert rows["head"].method == "weight of embedding"
    assert rows["head"].costs == {}
    assert rows["embedding"].costs["weight_spectrum"].seconds > 0


def test_the_log_grows_as_the_plan_says(tmp_path):
    model = mlp(300, 400, 20)
    probe = torch.randn(500, 300)
    plan = svdhooks.plan(model, probe)
    sizes = []
    with svdhooks.watch(
        model, tmp_path, every=1, probe=probe, max_overhead=None
    ) as recorder:
        for _ in range(4):
            recorder.step()
            files = (tmp_path / "svdhooks").rglob("*tfevents*")
            sizes.append(sum(f.stat().st_size for f in files))
    grown = np.diff(sizes)[-2:].mean()
    assert abs(plan.log_bytes - grown) < 0.05 * grown
    assert plan.gb_per_10_000_records == plan.log_bytes / 1e5


@pytest.mark.parametrize("probing", [True, False])
def test_the_plan_knows_the_bytes_of_vectors_and_moments(tmp_path, probing):
    model, probe = (
        nn.Sequential(nn.Conv2d(3, 40, 5), nn.Flatten()),
        torch.rand(9, 3, 8, 8),
    )
    model = nn.Sequential(model, nn.Linear(640, 30))
    quantities = [
        svdhooks.WeightVectors(k=None, schedule=None),
        svdhooks.PointMoments(max_features=200, schedule=None),
        svdhooks.SubspaceDrift(),
    ]
    plan = svdhooks.plan(model, probe if probing else None, quantities=quantities)
    sizes = []
    with svdhooks.watch(
        model, tmp_path, every=1, probe=probe, quantities=quantities, max_overhead=None
    ) as recorder:
        for _ in range(4):
            recorder.step()
            files = [
                f for f in (tmp_path / "svdhooks").rglob("*") if "base" not in f.name
            ]
            sizes.append(sum(f.stat().st_size for f in files))
    grown = np.diff(sizes)[-2:].mean()
    assert abs(plan.log_bytes - grown) < 0.05 * grown
    triangles = 8 * sum(d * (d + 1) // 2 for d in (75, 40, 30))
    vectors = 4 * (40 * 41 + 40 * 75 + 30 * 31 + 30 * 640)
    assert grown > triangles + vectors
    assert {entry.name for entry in plan.skipped} == {"1 (input)"}
    assert plan.memory_bytes >= 16 * 75**2


def test_the_samples_of_the_probe_are_what_is_timed():
    counted = []

    class Counting(Timer):
        def of_covariance(self, samples: int, features: int) -> Any:
            counted.append((samples, features))
            return super().of_covariance(samples, features)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("svdhooks.planning.planner.Timer", Counting)
        svdhooks.plan(mlp(4, 6, 3), X)
        svdhooks.plan(mlp(4, 6, 3), samples=7)
    shapes = [(4,), (6,), (6,), (3,)]
    assert counted == [(50, d) for (d,) in shapes] + [(7, d) for (d,) in shapes]


def test_without_a_probe_it_says_what_it_assumes():
    plan = svdhooks.plan(mlp(4, 6, 3), quantities=["covariance", "token_rank"])
    assert "4096 samples are assumed" in plan.notes[0]
    assert "Not timed without a reference batch: token_rank" in plan.notes[1]
    assert np.isnan(plan.probe_seconds)
    assert np.isfinite(plan.seconds_per_record)
    assert not svdhooks.plan(mlp(4, 6, 3), X).notes


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(mlp(4, 6, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    svdhooks.plan(model, X, quantities=["weight_spectrum", "covariance", "light"])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not hooks_on(model)
    assert not list(tmp_path.iterdir())


def test_memory_counts_what_is_kept_and_the_costliest_layer():
    model = mlp(64, 32, 16)
    plain = svdhooks.plan(model, quantities="weight_spectrum")
    kept = svdhooks.plan(model, quantities=["weight_spectrum", "update_spectrum"])
    entries = sum(m.weight.numel() for m in model if isinstance(m, nn.Linear))
    assert kept.memory_bytes - plain.memory_bytes == 2 * 4 * entries
    assert plain.memory_bytes == 8 * 64 * 32 + 3 * 8 * 32 * 32


@pytest.mark.parametrize(
    ("shape", "small", "factor"),
    [
        ((384, 3072), (384, 3072), 1),
        ((768, 768), (384, 768), 2**2 * 2),
        ((256, 50_000), (256, 3072), 50_000 / 3072),
        ((50_000, 768), (3072, 384), 2**2 * 50_000 / 3072),
    ],
)
def test_large_matrices_are_timed_on_a_part(shape, small, factor):
    assert _smaller(shape) == (small, factor)


def test_a_momentum_copy_is_pointed_at():
    student = mlp(4, 6, 3)
    teacher = copy.deepcopy(student).requires_grad_(False)
    model = nn.ModuleDict({"student": student, "teacher": teacher, "head": mlp(3, 2)})
    layers = svdhooks.layers.find_layers(model).layers
    assert twins(model, layers) == [("teacher", "student")]
    (note,) = [n for n in svdhooks.plan(model).notes if "teacher" in n]
    assert "teacher (of student)" in note
    assert not advice(twins(mlp(4, 4, 4, 4), ()))
    frozen = nn.ModuleList([mlp(4, 4), mlp(4, 4).requires_grad_(False)])
    assert not twins(frozen, svdhooks.layers.find_layers(frozen).layers)  # one layer


def test_several_models_and_edges_are_planned_too():
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    plan = svdhooks.plan(
        {"a": block, "b": mlp(4, 3)},
        {"a": torch.randn(3, 5, 8)},
        quantities=["weight_spectrum", "attention_logits", "token_rank"],
    )
    rows = _rows(plan)
    assert rows["a.self_attn"].kind == "attention"
    assert rows["a.self_attn"].seconds > 0
    assert rows["a.linear1"].costs["token_rank"].seconds > 0
    assert "b.0" in rows


def test_as_text_it_fits_a_terminal_and_names_everything():
    plan = svdhooks.plan(nn.Sequential(mlp(4, 6, 3), nn.LayerNorm((2, 3))))
    text = str(plan)
    for words_of in (
        "0.0",
        "6 × 4",
        "gram",
        "every 100 steps",
        "GB per 10,000",
        "1.bias",
    ):
        assert words_of in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (1e-6, "< 0.1 ms"),
        (0.00123, "1.2 ms"),
        (0.0995, "100 ms"),
        (0.9999, "1.0 s"),
        (12.3, "12 s"),
        (1234.0, "1234 s"),
    ],
)
def test_durations_read_well(seconds, said):
    assert words.time_of(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"), [(12, "12 B"), (3.2e6, "3.2 MB"), (5e9, "5 GB")]
)
def test_sizes_read_well(count, said):
    assert words.size_of(count) == said


def test_what_is_wrong_is_told_as_by_watch():
    with pytest.raises(ValueError, match="matches no layer"):
        svdhooks.plan(mlp(4, 3), layers="x")
    with pytest.raises(ValueError, match="does not accept the given probe"):
        svdhooks.plan(mlp(4, 3), torch.zeros(2, 9))
    with pytest.raises(ValueError, match="samples=0"):
        svdhooks.plan(mlp(4, 3), samples=0)


@pytest.mark.parametrize(("compute", "told"), [("inline", False), ("thread", True)])
def test_a_thread_that_solves_is_told_with_its_memory(compute, told):
    options = svdhooks.ProbeOptions(compute=compute)
    found = svdhooks.plan(nn.Linear(4, 3), probe_options=options)
    assert any("up to 1 GiB" in note for note in found.notes) == told
