"""Runs of sharded models: the same log as of one process that holds and sees everything."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import svdhooks
from tests.distributed.harness import Ranks
from tests.distributed.test_ddp import check_same
from tests.distributed.training import (
    Net,
    batches,
    make,
    shard,
    train,
    values_of,
    whole_run,
    written,
)


def wrap(kind: str, model: Any) -> Any:
    """Shard a model; of tensor parallelism all see the same data."""
    if kind == "fsdp2":
        for part in (model.fc1, model.fc2):
            fully_shard(part)
        return fully_shard(model)
    if kind == "hsdp":
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shards"))
        fully_shard(model.fc1, mesh=mesh)
        return fully_shard(model, mesh=mesh)
    if kind == "fsdp1":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it advises against itself on a CPU
            return FullyShardedDataParallel(
                model, use_orig_params=True, device_id=torch.device("cpu")
            )
    plan = {"fc1": ColwiseParallel(), "fc2": RowwiseParallel()}
    if kind == "tp":
        mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tensor",))
        return parallelize_module(model, mesh, plan)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    parallelize_module(model, mesh["tensor"], plan)
    return fully_shard(model, mesh=mesh["data"])


def data_rank(kind: str, rank: int, world: int) -> tuple[int, int]:
    """Which share of the data a rank sees, of how many."""
    if kind == "tp":
        return 0, 1
    if kind == "fsdp2 and tp":
        return rank // 2, 2
    return rank, world


class Even(Net):
    """Tensor parallelism wants sizes that divide."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(20, 32), nn.Linear(32, 16)


def run(
    rank: int,
    world: int,
    kind: str,
    log_dir: str | None,
    probe: Tensor,
    options: dict[str, Any],
) -> Any:
    place, parts = data_rank(kind, rank, world)
    model = wrap(kind, make(Even if "tp" in kind else Net))
    data = [shard(x, place, parts) for x in batches(6)]
    if log_dir is None:
        return train(model, data), {}
    sink = svdhooks.MemorySink()
    with svdhooks.watch(
        model,
        log_dir,
        every=2,
        sinks=[sink],
        max_overhead=None,
        probe=shard(probe, place, parts),
        **options,
    ) as recorder:
        losses = train(model, data, recorder)
    return losses, values_of(sink.records)


KINDS = [
    pytest.param("fsdp2", 2),
    pytest.param("tp", 2),
    pytest.param("hsdp", 4, marks=pytest.mark.slow),
    pytest.param("fsdp2 and tp", 4, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kind", "world"), KINDS)
def test_a_sharded_run_reads_what_one_process_would(
    ranks: Ranks, tmp_path: Path, kind: str, world: int
) -> None:
    """Hazards 21, 22, 24: the head has one row, which leaves ranks with none."""
    probe = batches(1, 26)[0]
    found = ranks.run(world, run, world, kind, str(tmp_path), probe, {})
    expected = whole_run(probe, batches(6), build=Even if "tp" in kind else Net)
    check_same(found[0][1], expected, rel=2e-5)
    assert all(records == {} for _, records in found[1:])
    assert len(written(tmp_path)) == 1
    without = ranks.run(world, run, world, kind, None, probe, {})
    assert [losses for losses, _ in found] == [losses for losses, _ in without]


def test_other_quantities_of_sharded_weights(ranks: Ranks, tmp_path: Path) -> None:
    probe = batches(1, 26)[0]
    options = {"quantities": ["update_spectrum", "light", "weight_vectors"]}
    found = ranks.run(2, run, 2, "fsdp2", str(tmp_path), probe, options)
    expected = whole_run(probe, batches(6), **options)
    records = found[0][1]
    assert records.keys() == expected.keys()
    for key, values in expected.items():
        if key[3] == "update" and key[0] > 0:
            # an update is a difference: what is below its noise floor may be anything
            names = ("spectrum", "spectral_norm", "stable_rank")
            for name in names:
                wanted = np.asarray(values[name])
                assert np.allclose(
                    records[key][name], wanted, 1e-3, 1e-3 * wanted.max()
                )


def test_fsdp1_records_weights_and_says_so(ranks: Ranks, tmp_path: Path) -> None:
    """Hazard 23."""
    probe = batches(1, 26)[0]
    found = ranks.run(2, run_fsdp1, str(tmp_path), probe)
    expected = {
        k: v for k, v in whole_run(probe, batches(6)).items() if k[3] == "weight"
    }
    check_same(found[0][0], expected, rel=2e-5)
    assert len(found[0][1]) == 1
    assert "only weights are recorded. FSDP1" in found[0][1][0]
    assert found[1][1] == []


def run_fsdp1(rank: int, log_dir: str, probe: Tensor) -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, records = run(rank, 2, "fsdp1", log_dir, probe, {})
    told = [str(x.message) for x in caught if "svdhooks" in str(x.message)]
    return records, told


def run_stages(rank: int, log_dir: str) -> str:
    """Pipeline parallelism: each rank holds another part."""
    stage = nn.Linear(20, 33) if rank == 0 else nn.Linear(33, 16)
    with pytest.raises(ValueError, match="pipeline parallelism") as caught:
        svdhooks.watch(stage, log_dir, every=2)
    return str(caught.value)


def test_stages_of_a_pipeline_are_refused(ranks: Ranks, tmp_path: Path) -> None:
    for told in ranks.run(2, run_stages, str(tmp_path / "run")):
        assert "disagree about the layers" in told
    assert not (tmp_path / "run").exists()


def fail_in_probe(rank: int, log_dir: str) -> Any:
    model = wrap("fsdp2", make())
    data = [shard(x, rank, 2) for x in batches(6)]
    sink = svdhooks.MemorySink()
    forward = nn.Linear.forward
    calls = {"n": 0}

    def sometimes(self: nn.Linear, x: Tensor) -> Tensor:
        calls["n"] += not self.training and rank == 1 and self.out_features == 16
        if calls["n"] == 3:  # rehearsal, step 0, step 2
            calls["n"] += 1
            raise torch.OutOfMemoryError("no room")
        return forward(self, x)

    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
        svdhooks.watch(
            model, log_dir, every=2, sinks=[sink], max_overhead=None, probe=data[0]
        ) as recorder,
    ):
        warnings.simplefilter("ignore", svdhooks.reports.RecordingWarning)
        calls["n"] = 0
        patch.setattr(nn.Linear, "forward", sometimes)
        calls["n"] = 1
        losses = train(model, data, recorder)
    return losses, values_of(sink.records)


def test_a_probe_that_fails_on_one_rank_of_a_sharded_model(
    ranks: Ranks, tmp_path: Path
) -> None:
    found = ranks.run(2, fail_in_probe, str(tmp_path))
    records = found[0][1]
    by_step = {
        step: {
            v["status"] for k, v in records.items() if k[0] == step and k[3] == "output"
        }
        for step in (0, 2, 4, 6)
    }
    assert by_step[0] == by_step[6] == {"ok"}
    failed = {"probe failed: out of memory (rank 1)"}
    assert sorted([by_step[2] == failed, by_step[4] == failed]) == [False, True]
    without = ranks.run(2, run, 2, "fsdp2", None, batches(1)[0], {})
    assert [losses for losses, _ in found] == [losses for losses, _ in without]
