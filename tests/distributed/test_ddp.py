"""DistributedDataParallel: N ranks read what one process would."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import svdhooks
from tests.distributed.harness import Ranks
from tests.distributed.training import (
    batches,
    make,
    shard,
    train,
    values_of,
    whole_run,
    written,
)

QUANTITIES = ("weight_spectrum", "covariance")


def run_ddp(
    rank: int,
    log_dir: str | None,
    probes: list[Tensor | None],
    options: dict[str, Any],
) -> Any:
    world = len(probes)
    model = DistributedDataParallel(make())
    data = [shard(x, rank, world) for x in batches(6)]
    if log_dir is None:
        return train(model, data), None, None
    sink = svdhooks.MemorySink()
    given = {} if probes[rank] is None else {"probe": probes[rank]}
    with svdhooks.watch(
        model,
        log_dir,
        every=2,
        sinks=[sink],
        max_overhead=None,
        **given,
        **options,
    ) as recorder:
        losses = train(model, data, recorder)
        last = values_of(list(recorder.last.values()))
    return losses, values_of(sink.records), last


def check_same(found: Any, expected: Any, rel: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        for name, value in values.items():
            if isinstance(value, str | tuple):
                assert found[key][name] == value, (key, name)
            else:
                scale = np.abs(value).max() if np.size(value) else 0.0
                np.testing.assert_allclose(
                    found[key][name],
                    value,
                    rtol=rel,
                    atol=rel * scale,
                    err_msg=f"{key} {name}",
                )


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([12, 12], marks=pytest.mark.slow),
        [19, 5],
        pytest.param([3, 2], marks=pytest.mark.slow),
    ],
)
def test_ranks_read_what_one_process_would(
    ranks: Ranks, tmp_path: Path, sizes: list[int]
) -> None:
    """Hazard 21; equal, unequal and few samples."""
    probe = batches(1, sum(sizes))[0]
    probes = list(torch.split(probe, sizes))
    (_, records, last), (_, none, other_last) = ranks.run(
        2, run_ddp, str(tmp_path), probes, {}
    )
    expected = whole_run(probe, batches(6))
    assert {step for step, *_ in expected} == {0, 2, 4, 6}
    check_same(records, expected)
    assert none == {}  # only one rank writes
    assert len(written(tmp_path)) == 1
    assert other_last == last  # and all know: EarlyStopping has to decide alike
    log = svdhooks.RunLog(tmp_path)
    assert log.steps.tolist() == [0, 2, 4, 6]


@pytest.mark.slow
def test_an_empty_shard_counts_as_nothing(ranks: Ranks, tmp_path: Path) -> None:
    probe = batches(1, 24)[0]
    probes = [probe, probe[:0]]
    (_, records, _), _ = ranks.run(2, run_ddp, str(tmp_path), probes, {})
    check_same(records, whole_run(probe, batches(6)))


@pytest.mark.slow
def test_the_same_batch_on_all_ranks_counts_once(ranks: Ranks, tmp_path: Path) -> None:
    probe = batches(1, 24)[0]
    (_, records, _), _ = ranks.run(2, run_ddp, str(tmp_path), [probe, probe], {})
    check_same(records, whole_run(probe, batches(6)))
    assert records[0, "fc1", "covariance", "input"]["count"] == 24


def test_a_rank_without_a_batch_is_told(ranks: Ranks, tmp_path: Path) -> None:
    probe = batches(1, 24)[0]
    first, second = ranks.run(2, run_named, str(tmp_path), [probe, None])
    check_same(first[1], whole_run(probe, batches(6)))
    assert len(first[3]) == 1
    assert "no reference batch is known on rank 1" in first[3][0]
    assert second[3] == []  # one rank says it


def run_named(rank: int, log_dir: str, probes: list[Tensor | None]) -> Any:
    """One rank cannot capture a batch, because ``forward`` needs one of the loader."""
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        patch.setattr("svdhooks.reference.ReferenceKeeper.listen", lambda _: None)
        found = run_ddp(rank, log_dir, probes, {})
    told = [str(x.message) for x in caught if "svdhooks" in str(x.message)]
    return (*found, told)


def test_training_is_not_changed(ranks: Ranks, tmp_path: Path) -> None:
    """Hazard 40: bit for bit, because the inner module is probed."""
    probes: list[Tensor | None] = [None, None]  # captured
    with_it = ranks.run(2, run_ddp, str(tmp_path), probes, {})
    without = ranks.run(2, run_ddp, None, probes, {})
    assert [x[0] for x in with_it] == [x[0] for x in without]


def probe_the_wrapper(rank: int) -> bool:
    """Whether a forward of the wrapper in training mode changes what comes after it."""
    losses = []
    for probing in (False, True):
        model = DistributedDataParallel(make(_BatchNorm))
        data = [shard(x, rank, 2) for x in batches(4)]

        def probe(_: int, model: nn.Module = model, on: bool = probing) -> None:
            if on and rank == 0:
                model.module(torch.ones(4, 20))

        losses.append(train(model, data, after=probe))
    return losses[0] == losses[1]


class _BatchNorm(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Linear(20, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1)
        )


def test_a_naive_forward_on_one_rank_changes_the_training(ranks: Ranks) -> None:
    """The companion of hazard 40."""
    assert ranks.run(2, probe_the_wrapper) == [False, False]


@pytest.mark.slow
def test_four_ranks(ranks: Ranks, tmp_path: Path) -> None:
    probe = batches(1, 30)[0]
    probes = list(torch.split(probe, [1, 9, 20, 0]))
    found = ranks.run(4, run_ddp, str(tmp_path), probes, {})
    check_same(found[0][1], whole_run(probe, batches(6)))


def test_observed_training_is_merged(ranks: Ranks, tmp_path: Path) -> None:
    options = {"observe": "training", "probe_options": svdhooks.ProbeOptions(window=1)}
    none: list[Tensor | None] = [None, None]
    (_, records, _), _ = ranks.run(2, run_ddp, str(tmp_path), none, options)
    sink = svdhooks.MemorySink()
    model = make()
    with svdhooks.watch(
        model, None, every=2, sinks=[sink], max_overhead=None, **options
    ) as recorder:
        train(model, batches(6), recorder)
    check_same(records, values_of(sink.records), rel=1e-5)
    assert records[2, "fc1", "covariance", "input"]["count"] == 24


def run_without_windows(rank: int) -> tuple[list[str], set[tuple[int, str]]]:
    """As where the guard admits no window before a record."""
    sink, model = svdhooks.MemorySink(), DistributedDataParallel(make())
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(record=True) as w,
    ):
        warnings.simplefilter("always")
        patch.setattr("svdhooks.conductor.models.Models.open_windows", lambda *_: None)
        with svdhooks.watch(
            model,
            None,
            every=2,
            sinks=[sink],
            max_overhead=None,
            observe="training",
        ) as recorder:
            train(model, [shard(x, rank, 2) for x in batches(3)], recorder)
    told = [str(x.message) for x in w if "svdhooks" in str(x.message)]
    return told, {(r.step, r.quantity) for r in sink.records}


def test_no_batch_is_asked_for_where_the_training_is_observed(ranks: Ranks) -> None:
    (told, found), (others, _) = ranks.run(2, run_without_windows)
    assert len(told) == 1
    assert "observed" in told[0]
    assert "probe=" not in told[0]
    assert others == []
    assert (2, "weight_spectrum") in found
    assert (2, "covariance") not in found
