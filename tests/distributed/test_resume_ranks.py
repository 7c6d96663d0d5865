"""A run that goes on with more processes, or fewer."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from torch.nn.parallel import DistributedDataParallel

import svdhooks
from svdhooks.reports import RecordingWarning
from tests.distributed.harness import Ranks
from tests.distributed.training import batches, make, shard, train


def part(rank: int, world: int, log_dir: str, start: int | None) -> Any:
    """Four updates; no probe is given, so that each process captures its own batch."""
    model = DistributedDataParallel(make())
    data = [shard(x, rank, world) for x in batches(4)]
    if start:
        data = [2.0 * x for x in data]  # what would be captured now is another
    sink = svdhooks.MemorySink()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with svdhooks.watch(
            model,
            log_dir,
            every=2,
            sinks=[sink],
            max_overhead=None,
            start_step=start,
        ) as recorder:
            train(model, data, recorder)
    told = [str(x.message) for x in caught if issubclass(x.category, RecordingWarning)]
    seen = {
        r.step: (float(r.values["count"]), float(r.values["mean_norm"]))
        for r in sink.records
        if (r.layer, r.point) == ("fc1", "input")
    }
    return seen, told


def stored(log_dir: Path) -> list[str]:
    return sorted(p.name for p in (log_dir / "svdhooks").glob("probe*.pt"))


def test_as_many_find_their_batches_again(ranks: Ranks, tmp_path: Path) -> None:
    before, _ = ranks.run(2, part, 2, str(tmp_path), None)
    after, _ = ranks.run(2, part, 2, str(tmp_path), 4)
    assert after[1] == []
    assert after[0][8] == before[0][4]  # 24 samples of the same mean


@pytest.mark.slow
def test_more_and_fewer_take_new_batches_and_say_so(
    ranks: Ranks, tmp_path: Path
) -> None:
    """Else some would go on with an old batch, and others with a new one."""
    before, _ = ranks.run(2, part, 2, str(tmp_path), None)
    assert stored(tmp_path) == ["probe-rank1.pt", "probe.pt"]
    more = ranks.run(3, part, 3, str(tmp_path), 4)
    told = more[0][1]
    assert len(told) == 1
    assert "2 processes recorded this run, and 3 go on with it" in told[0]
    assert all(x[1] == [] for x in more[1:])
    count, norm = more[0][0][8]
    assert count == before[0][4][0] == 24
    expected = (2.0 * batches(1)[0]).double().mean(0).norm()
    assert abs(norm - float(expected)) < 1e-5  # none of the samples is an old one
    fewer = ranks.run(1, part, 1, str(tmp_path), 8)
    assert "3 processes recorded this run, and 1 goes on with it" in fewer[0][1][0]
    assert fewer[0][0][12] == more[0][0][8]
    assert stored(tmp_path) == ["probe.pt"]
    assert svdhooks.RunLog(tmp_path).steps.tolist() == [0, 2, 4, 6, 8, 10, 12]
