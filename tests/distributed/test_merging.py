"""N processes read what one process would that saw everything."""

from typing import Any

import pytest
import torch
from torch import Tensor

from svdhooks.distributed import merging
from svdhooks.distributed.merging import Share, merge
from svdhooks.distributed.shares import balanced
from svdhooks.distributed.team import form_team
from svdhooks.linalg import CovarianceAccumulator, Moments
from svdhooks.linalg.units import UnitStatistics
from tests.distributed.harness import Ranks

KEY = ("fc", "output")


def share_of(samples: Tensor | None) -> Share:
    if samples is None:
        return Share()
    d = samples.shape[1]
    return Share(
        CovarianceAccumulator(d).update(samples),
        UnitStatistics(d).update(samples),
        samples.dtype,
    )


def merge_one(rank: int, parts: list[Tensor | None]) -> Any:
    team = form_team()
    found = merge(team, [KEY], {KEY: share_of(parts[rank])})
    team.leave()
    if KEY not in found:
        return None
    share = found[KEY]
    if share.samples is None or share.units is None:
        return share.problem
    return {
        "count": share.samples.count,
        "method": share.samples.method,
        "eigenvalues": share.samples.eigenvalues(),
        "mean": share.samples.mean,
        "norm": share.samples.uncentred_norm,
        "units": share.units.fractions(),
        "problem": share.problem,
    }


def merged(ranks: Ranks, parts: list[Tensor | None]) -> Any:
    found = [x for x in ranks.run(len(parts), merge_one, parts) if x is not None]
    assert len(found) == 1  # one process solves it
    return found[0]


def shards(sizes: list[int], d: int, dtype: torch.dtype = torch.float32) -> list[Any]:
    """Samples of mean 100; each process sees another part of the space."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for rank, size in enumerate(sizes):
        x = torch.randn(size, d, generator=generator, dtype=torch.float64)
        x *= torch.linspace(1 + rank, 0.1, d, dtype=torch.float64)
        found.append((x + 100 + rank).to(dtype))
    return found


@pytest.mark.parametrize(
    ("sizes", "d"),
    [
        ([40, 40], 8),  # each alone has more samples than features
        ([33, 7], 8),  # unequal; one has moments, the other samples
        ([5, 6], 8),  # only together
        ([40, 0], 8),  # an empty shard
        ([2, 1], 8),  # fewer than features, even together
        ([3, 0], 8),
    ],
)
def test_shards_merge_exactly(ranks: Ranks, sizes: list[int], d: int) -> None:
    parts = shards(sizes, d)
    whole = torch.cat(parts)
    expected = share_of(whole)
    found = merged(ranks, parts)
    assert found["count"] == len(whole)
    assert expected.samples is not None
    assert expected.units is not None
    assert found["method"] == expected.samples.method
    centred = whole.double() - whole.double().mean(0)
    oracle = torch.linalg.svdvals(centred) ** 2 / len(whole)
    scale = float(oracle[0])
    short = min(len(oracle), len(found["eigenvalues"]))
    assert (found["eigenvalues"][:short] - oracle[:short]).abs().max() < 3e-14 * scale
    assert torch.allclose(found["mean"], whole.double().mean(0), rtol=1e-14)
    assert found["norm"] == pytest.approx(expected.samples.uncentred_norm, rel=1e-13)
    assert found["units"] == expected.units.fractions()


def test_the_covariance_of_one_shard_is_another(ranks: Ranks) -> None:
    """The companion: what a hook on one rank sees is far from the whole."""
    parts = shards([40, 40], 8)
    local = CovarianceAccumulator(8).update(parts[0]).eigenvalues()
    found = merged(ranks, parts)["eigenvalues"]
    assert (found - local).abs().max() > 0.1 * found.max()


@pytest.mark.slow
def test_four_shards_of_halves(ranks: Ranks) -> None:
    parts = shards([9, 0, 20, 3], 16, torch.bfloat16)
    whole = torch.cat(parts).double()
    oracle = torch.linalg.eigvalsh(torch.cov(whole.T, correction=0)).flip(-1)
    found = merged(ranks, parts)["eigenvalues"]
    assert (found - oracle).abs().max() < 1e-12 * oracle[0]


def test_complex_samples(ranks: Ranks) -> None:
    parts = [
        torch.complex(a, b)
        for a, b in zip(shards([20, 9], 5), shards([20, 9], 5)[::1], strict=True)
    ]
    parts = [p * (1 + 0.3j * i) for i, p in enumerate(parts)]
    whole = torch.cat(parts)
    expected = CovarianceAccumulator(5).update(whole)
    found = merged(ranks, parts)
    scale = float(expected.eigenvalues()[0])
    assert (found["eigenvalues"] - expected.eigenvalues()).abs().max() < 1e-13 * scale
    assert found["units"].dead_fraction != found["units"].dead_fraction  # no order


def test_nan_on_one_rank_is_seen_by_all(ranks: Ranks) -> None:
    parts = shards([20, 20], 5)
    parts[1][3, 2] = torch.nan
    found = merged(ranks, parts)
    assert found["eigenvalues"].isnan().all()
    assert found["units"].dead_fraction != found["units"].dead_fraction
    assert found["problem"] is None


def test_a_point_that_nobody_saw(ranks: Ranks) -> None:
    first, second = ranks.run(2, merge_one, [None, None])
    assert first is None
    assert second is None


def test_different_widths_are_a_problem(ranks: Ranks) -> None:
    parts = [shards([20], 5)[0], shards([20], 6)[0]]
    assert "different numbers of features: [5, 6]" in merged(ranks, parts)


def fail_on_one(rank: int, where: str) -> Any:
    team = form_team()
    share = share_of(shards([20, 20], 5)[rank])
    other = ("fc2", "output")
    if rank == 1 and where == "observing":
        share = Share(problem="out of memory")
    if rank == 1 and where == "reducing":

        def fails(*_: Any) -> Moments:
            raise MemoryError("no room")

        share.samples.moments = fails  # type: ignore[union-attr, method-assign]
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1 and where == "reserving":
            patch.setattr(merging.torch, "zeros", _no_room(torch.zeros))
        if rank == 0 and where == "putting together":
            patch.setattr(merging, "_square", _no_copy(merging._square))
        found = merge(team, [KEY, other], {KEY: share, other: share_of(torch.eye(3))})
    answers = team.exchange({k: v.problem for k, v in found.items()})
    team.leave()
    problems = {key: problem for each in answers for key, problem in each.items()}
    return problems, share.problem


def _no_room(zeros: Any) -> Any:
    def limited(*size: Any, **options: Any) -> Tensor:
        if size and size[0] == 25:
            raise MemoryError("no room")
        return zeros(*size, **options)

    return limited


def _no_copy(square: Any) -> Any:
    def limited(flat: Tensor, d: int, is_complex: bool) -> Any:
        return None if d == 5 and flat.any() else square(flat, d, is_complex)

    return limited


def fail_to_send(rank: int) -> Any:
    """Fewer samples than features; they cannot be copied from their device."""
    team = form_team()
    share = share_of(shards([2, 1], 8)[rank])
    other = ("fc2", "output")
    if rank == 1:

        class Stuck:
            def __len__(self) -> int:
                raise MemoryError("no room")

        share.samples = _WithSamples(8, Stuck())  # type: ignore[assignment]
    found = merge(team, [KEY, other], {KEY: share, other: share_of(torch.eye(3))})
    answers = team.exchange({k: v.problem for k, v in found.items()})
    team.leave()
    return {key: problem for each in answers for key, problem in each.items()}


class _WithSamples:
    count = 1
    mean = torch.zeros(8, dtype=torch.float64)

    def __init__(self, d: int, samples: Any) -> None:
        self.d, self.samples = d, samples


def test_samples_that_cannot_be_sent_keep_nobody_waiting(ranks: Ranks) -> None:
    expected = {KEY: "out of memory (rank 1)", ("fc2", "output"): None}
    assert ranks.run(2, fail_to_send) == [expected] * 2


def test_an_error_while_putting_together_is_that_of_one_point(ranks: Ranks) -> None:
    problems, _ = ranks.run(2, fail_on_one, "putting together")[1]
    assert "'NoneType' object has no attribute 'clone' (rank 0)" in problems[KEY]
    assert problems["fc2", "output"] is None


def test_a_point_that_failed_on_one_rank_fails_and_others_do_not(ranks: Ranks) -> None:
    for problems, _ in ranks.run(2, fail_on_one, "observing"):
        assert problems == {KEY: "out of memory (rank 1)", ("fc2", "output"): None}


def test_an_error_while_reducing_keeps_nobody_waiting(ranks: Ranks) -> None:
    _, (problems, own) = ranks.run(2, fail_on_one, "reducing")
    assert own == "out of memory"
    assert problems == {KEY: "out of memory (rank 1)", ("fc2", "output"): None}


def test_no_room_for_a_scatter_on_one_rank(ranks: Ranks) -> None:
    for problems, _ in ranks.run(2, fail_on_one, "reserving"):
        assert problems[KEY] == "out of memory for the scatter of all ranks"


def test_work_is_shared_out_evenly() -> None:
    owners = balanced([8, 1, 1, 1, 1, 4], 2)
    loads = [sum(c for c, o in zip([8, 1, 1, 1, 1, 4], owners, strict=True) if o == r)
             for r in range(2)]  # fmt: skip
    assert sorted(loads) == [8, 8]
    assert balanced([], 3) == []
    assert balanced([1, 1, 1], 1) == [0, 0, 0]


def test_an_average_over_ranks_would_be_nan() -> None:
    """The companion of hazard 24: a rank without samples has no covariance."""
    parts = shards([40, 0], 8)
    each = [Moments.zeros(8).update(part).covariance() for part in parts]
    assert torch.stack(each).mean(0).isnan().all()


def merge_many(rank: int, parts: list[Any]) -> Any:
    """Points of all kinds at once, sent in as many pieces as one number allows."""
    team = form_team()
    keys = [(f"fc{n}", "output") for n in range(len(parts))]
    shares = {k: share_of(p[rank]) for k, p in zip(keys, parts, strict=True)}
    found = merge(team, keys, shares)
    told = team.exchange({
        key: share.samples.eigenvalues()
        for key, share in found.items()
        if share.samples
    })
    team.leave()
    return [{k: v for each in told for k, v in each.items()}[key] for key in keys]


def merge_in_pieces(rank: int, parts: list[Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "SENT_TOGETHER", 1)
        return merge_many(rank, parts)


def test_points_that_are_sent_together_stay_apart(ranks: Ranks) -> None:
    kinds = [([40, 40], 8), ([2, 1], 8), ([9, 30], 5), ([1, 3], 6), ([0, 7], 4)]
    parts = [shards(sizes, d) for sizes, d in kinds]
    parts[2] = [x.to(torch.complex64) * (1 + 0.2j * i) for i, x in enumerate(parts[2])]
    together = ranks.run(2, merge_many, parts)[0]
    apart = ranks.run(2, merge_in_pieces, parts)[0]
    for found, same, pair in zip(together, apart, parts, strict=True):
        whole = CovarianceAccumulator(pair[0].shape[1]).update(torch.cat(pair))
        expected = whole.eigenvalues()
        assert torch.equal(found, same)
        assert (found - expected).abs().max() < 1e-13 * expected[0]
