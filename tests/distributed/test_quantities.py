"""Every quantity of several processes is what one process reads that sees everything."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import svdhooks
from svdhooks.conductor import passes
from svdhooks.conductor.measured import Measured
from svdhooks.conductor.outcome import Outcome, united
from svdhooks.distributed.team import form_team
from svdhooks.layers import PointValue
from svdhooks.layers.tap import Watched
from svdhooks.quantities import (
    AttentionLogits,
    Covariance,
    ExpertLoad,
    JacobianSpectrum,
    Ledger,
    LiDAR,
    Light,
    Quantity,
    SpectralEdges,
    TokenRank,
    UpdateSpectrum,
    WeightSpectrum,
    WeightVectors,
)
from svdhooks.quantities.moments import PointMoments
from svdhooks.quantities.protocols import ProbeContext
from svdhooks.quantities.vectors import ROUNDING
from svdhooks.record import Record
from svdhooks.reports import RecordingWarning
from tests.distributed.harness import Ranks
from tests.distributed.test_ddp import check_same
from tests.distributed.training import Values, values_of


class Largest:
    """A quantity of a user, which knows nothing of other processes."""

    name = "largest"
    schedule = None

    def observer(self, layers: Sequence[Watched], context: ProbeContext) -> Any:
        return _Seen([layer.name for layer in layers], context)

    def measured_points(self, layer: Watched) -> list[str]:
        return ["output"] if "output" in layer.points else []

    def skipped_points(self, _layer: Watched) -> dict[str, str]:
        return {}


class _Seen:
    def __init__(self, names: list[str], context: ProbeContext) -> None:
        self._context = context
        self._found = dict.fromkeys(names, 0.0)

    def receive(self, layer: Watched, values: Mapping[str, PointValue]) -> None:
        if layer.name in self._found:
            self._found[layer.name] = float(values["output"].tensor.max())

    def fail(self, layer: Watched, error: Exception) -> None:
        """Nothing fails."""

    def records(self) -> list[Record]:
        return [
            Record(
                self._context.step,
                name,
                "largest",
                {"top": np.asarray(top)},
                point="output",
            )
            for name, top in self._found.items()
        ]


def everything(kind: str) -> list[Quantity]:
    # what is in tensor parallelism cannot be differentiated, nor followed
    schedule = svdhooks.every(2)
    jacobians = JacobianSpectrum(schedule=schedule, max_samples=None)
    return [
        *([] if kind.endswith("tp") else [jacobians, SpectralEdges(schedule=None)]),
        Ledger(),
        WeightSpectrum(heads=True),
        Covariance(measures=("saturation",)),
        TokenRank(),
        LiDAR(views=2),
        ExpertLoad(),
        AttentionLogits(),
        Light(),
        UpdateSpectrum(),
        WeightVectors(),
        PointMoments(),
        Largest(),
    ]


def mixture() -> Any:
    """Eight experts, of which a token calls one: some see no token of a rank."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=8,
        num_experts_per_tok=1,
        max_position_embeddings=32,
    )
    return MixtralForCausalLM(config)


def texts(seed: int, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 64, (size, 5), generator=generator)


def run(
    rank: int, world: int, kind: str, log_dir: str | None, together: int, record: bool
) -> tuple[list[float], Values, list[str]]:
    model = mixture()
    if kind == "ddp":
        model = DistributedDataParallel(model, find_unused_parameters=True)
    elif kind == "fsdp2":
        for block in model.model.layers:
            fully_shard(block)
        fully_shard(model)
    elif kind == "tp":
        mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("tensor",))
        plan = {
            "q_proj": ColwiseParallel(),
            "k_proj": ColwiseParallel(),
            "v_proj": ColwiseParallel(),
            "o_proj": RowwiseParallel(),
        }
        for block in model.model.layers:
            parallelize_module(block.self_attn, mesh, plan)
        rank, world = 0, 1  # all see the same data
    data = [texts(seed).tensor_split(world)[rank] for seed in range(4)]
    sink, told = svdhooks.MemorySink(), []
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(record=True) as w,
    ):
        warnings.simplefilter("always")
        patch.setattr(passes, "TOGETHER_BYTES", together)
        recorder = None
        if record:
            recorder = svdhooks.watch(
                model,
                log_dir,
                every=2,
                sinks=[sink],
                max_overhead=None,
                quantities=everything(kind),
                probe={"input_ids": texts(99, 12).tensor_split(world)[rank]},
                taps={"block": "model.layers.0"},
            )
        losses = train(model, data, recorder)
        if recorder is not None:
            assert recorder._team.broken is None
            recorder.close()
    told = [str(x.message) for x in w if issubclass(x.category, RecordingWarning)]
    return losses, values_of(sink.records), told


def train(model: Any, data: list[Tensor], recorder: Any) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for x in data:
        loss = model(input_ids=x, labels=x).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if recorder is not None:
            recorder.step()
    return losses


@pytest.mark.parametrize(
    ("kind", "together"),
    [
        ("ddp", 2**30),
        pytest.param("fsdp2", 10_000, marks=pytest.mark.slow),
        pytest.param("tp", 2**30, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_all_quantities_are_those_of_one_process(
    ranks: Ranks, tmp_path: Path, kind: str, together: int
) -> None:
    """In one pass, and in as many as it takes where there is little memory."""
    found = ranks.run(2, run, 2, kind, str(tmp_path), together, True)
    records = found[0][1]
    _, expected, _ = run(0, 1, f"whole {kind}", None, 2**30, True)
    for key, values in expected.items():
        if key[2] == "update_spectrum":  # of a difference: its smallest value is noise
            for name in [x for x in values if x.startswith("condition_number")]:
                values[name] = records[key][name]
        if key[2] == "weight_vectors":  # what rounding leaves is noise
            assert max(values["residual"] + records[key]["residual"]) < ROUNDING
            values["residual"] = records[key]["residual"]
        if key[2] == "ledger" and kind == "tp":  # where parts of an output are whole
            known = records[key]["nonlinearity_removed_share"]
            if np.isnan(known):
                values["nonlinearity_removed_share"] = known
        if key[2] == "largest" and kind != "tp":
            assert records[key]["marks"] == ("one_rank",)
            expected[key] = records[key]
    check_same(records, expected, rel=1e-4)
    assert {key[2] for key in expected} == {q.name for q in everything(kind)}
    assert [told for _, _, told in found] == [[], []]
    without = ranks.run(2, run, 2, kind, None, together, False)
    assert [losses for losses, *_ in found] == [losses for losses, *_ in without]


def seen_by_one(rank: int) -> list[str]:
    """A model without sequences; only rank 1 has a batch."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    sink = svdhooks.MemorySink()
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("always")
        with svdhooks.watch(
            model,
            None,
            every=1,
            quantities=["token_rank"],
            sinks=[sink],
            forward=lambda model, batch: model(batch),
        ) as recorder:
            recorder.step(batch=torch.ones(5, 4) if rank else None)
    return [str(x.message) for x in w if issubclass(x.category, RecordingWarning)]


def test_what_finds_nothing_says_so_once(ranks: Ranks) -> None:
    told, others = ranks.run(2, seen_by_one)
    assert [text for text in told if "token_rank was asked for" in text]
    assert others == []


def send_matrices(rank: int, to_all: bool) -> list[tuple[str, list[str], float]]:
    """Each rank has a record with a large matrix and one with a small."""
    team = form_team()
    measured = Measured()
    for name, side in ((f"small {rank}", 3), (f"large {rank}", 300)):
        values = {"U": np.full((side, side), rank + 1.0), "sigma": np.ones(side)}
        measured.records.append(Record(0, name, "weight_vectors", values))
    own = Outcome(measured, (), 0.0, 0.0, 0.0)
    found = united(team, own, [], [], to_all)
    team.leave()
    return [
        (r.layer, sorted(r.values), float(r.values.get("U", np.zeros(1)).max()))
        for r in found.measured.records
    ]


def test_large_matrices_are_for_the_process_that_writes(ranks: Ranks) -> None:
    whole = [
        (f"{size} {rank}", ["U", "sigma"], rank + 1.0)
        for rank in (0, 1)
        for size in ("small", "large")
    ]
    writer, other = ranks.run(2, send_matrices, False)
    assert writer == whole
    assert [x[0] for x in other] == [x[0] for x in whole]
    assert [x[1] for x in other if "large" in x[0]] == [["sigma"]] * 2
    assert ranks.run(2, send_matrices, True) == [whole, whole]
