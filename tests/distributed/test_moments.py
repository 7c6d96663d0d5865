"""Moments, vectors, biases and drift of several processes are those of one."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import distribute_tensor

import svdhooks
from svdhooks.analysis import layer_snapshot
from svdhooks.conductor import passes
from tests.distributed.harness import Ranks
from tests.distributed.test_ddp import check_same
from tests.distributed.test_ledger import Images, images, spread
from tests.distributed.training import Values, values_of

DRIFT = "subspace_drift"


def wrap(model: Images, kind: str, world: int) -> Any:
    if kind != "fsdp1":
        return spread(model, kind, world)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it advises against itself on a CPU
        return FullyShardedDataParallel(
            model, use_orig_params=False, device_id=torch.device("cpu")
        )


def run(
    rank: int,
    world: int,
    kind: str,
    log_dir: str,
    observe: str = "probe",
    together: int = 2**30,
) -> Values:
    torch.manual_seed(0)
    model = wrap(Images(), kind, world)
    if kind == "tp":
        rank, world = 0, 1  # all see the same data
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    sink, schedule = svdhooks.MemorySink(), svdhooks.every(2)
    probe = images(9, 25).tensor_split(world)[rank]
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        patch.setattr(passes, "TOGETHER_BYTES", together)
        with svdhooks.watch(
            model,
            log_dir,
            every=2,
            sinks=[sink],
            max_overhead=None,
            quantities=[
                svdhooks.PointMoments(schedule=schedule),
                svdhooks.WeightVectors(k=None, schedule=schedule),
                svdhooks.SubspaceDrift(k=2),
            ],
            observe=observe,
            probe=probe if observe == "probe" else None,
        ) as recorder:
            for seed in range(4):
                loss = model(images(seed).tensor_split(world)[rank]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recorder.step()
            assert recorder._team.broken is None
    told = [str(x.message) for x in caught if "svdhooks" in str(x.message)]
    assert kind == "fsdp1" or not told, told
    return values_of(sink.records)


def only(values: Values, *quantities: str) -> Values:
    return {key: x for key, x in values.items() if key[2] in quantities}


def check_snapshots(found: Path, expected: Path, moments: bool = True) -> None:
    """From the two logs: singular vectors may turn, weights may not."""
    logs = [svdhooks.RunLog(path) for path in (found, expected)]
    layers = logs[1].layers
    assert logs[0].layers == layers
    for name in layers:
        one, other = (layer_snapshot(log, name) for log in logs)
        assert one.step == other.step == 4
        np.testing.assert_allclose(one.weight(), other.weight(), atol=1e-6)
        np.testing.assert_allclose(one.bias, other.bias, atol=1e-6)
        assert one.bias is not None
        for point in ("input", "output") if moments else ():
            passed, wanted = getattr(one, point), getattr(other, point)
            assert passed.count == wanted.count
            scale = np.abs(wanted.covariance).max()
            np.testing.assert_allclose(
                passed.covariance, wanted.covariance, atol=1e-5 * scale
            )


@pytest.mark.parametrize(
    "kind", ["ddp", "fsdp2", pytest.param("tp", marks=pytest.mark.slow)]
)
def test_two_processes_read_what_one_does(
    ranks: Ranks, tmp_path: Path, kind: str
) -> None:
    found = ranks.run(2, run, 2, kind, str(tmp_path / "two"))
    expected = run(0, 1, "plain", str(tmp_path / "one"))
    names = ("moments", DRIFT)
    check_same(only(found[0], *names), only(expected, *names), rel=1e-4)
    assert found[1] == {}
    assert {v["count"] for v in only(expected, "moments").values()} == {
        25.0, 25.0 * 36, 25.0 * 4,
    }  # fmt: skip
    check_snapshots(tmp_path / "two", tmp_path / "one")


def test_what_is_held_together_is_bounded(ranks: Ranks, tmp_path: Path) -> None:
    """The same from several passes as from one."""
    path = str(tmp_path / "two")
    found = ranks.run(2, run, 2, "ddp", path, "probe", 8 * 54**2)
    expected = run(0, 1, "plain", str(tmp_path / "one"))
    check_same(only(found[0], "moments"), only(expected, "moments"), rel=1e-4)


def test_a_training_observed_by_two_processes(ranks: Ranks, tmp_path: Path) -> None:
    found = ranks.run(2, run, 2, "ddp", str(tmp_path / "two"), "training")
    expected = run(0, 1, "plain", str(tmp_path / "one"), "training")
    moments = only(expected, "moments")
    check_same(only(found[0], "moments"), moments, rel=1e-4)
    assert {key[0] for key, x in moments.items() if x["status"] == "ok"} >= {2, 4}


def separate(rank: int) -> list[float]:
    """Query, key and value of different weights, and one bias that they share."""
    torch.manual_seed(0)
    model = fully_shard(nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True))
    with torch.no_grad():
        bias = torch.arange(24.0)
        local = distribute_tensor(
            bias, model.in_proj_bias.device_mesh, model.in_proj_bias.placements
        )
        model.in_proj_bias.copy_(local)
    sink = svdhooks.MemorySink()
    quantities = [svdhooks.WeightVectors(k=None)]
    with svdhooks.watch(model, None, quantities=quantities, sinks=[sink]) as recorder:
        assert recorder._team.broken is None
    told = [sink.vectors(name)[1] for name in sink.layers] if rank == 0 else []
    return [float(x) for found in told for x in found["bias"][0]]


def test_a_bias_that_several_layers_share_keeps_nobody_waiting(ranks: Ranks) -> None:
    first, second = ranks.run(2, separate)
    assert first[:24] == list(range(24))
    assert (len(first), second) == (32, [])


def test_fsdp1_gathers_biases_with_weights(ranks: Ranks, tmp_path: Path) -> None:
    found = ranks.run(2, run, 2, "fsdp1", str(tmp_path / "two"))
    expected = run(0, 1, "plain", str(tmp_path / "one"))
    check_same(only(found[0], DRIFT), only(expected, DRIFT), rel=1e-4)
    check_snapshots(tmp_path / "two", tmp_path / "one", moments=False)
