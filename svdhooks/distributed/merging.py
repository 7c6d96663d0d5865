"""Covariances of what several processes saw, exactly as of all samples at once.

With nᵢ samples of mean μᵢ and centred scatter Mᵢ on process i, the scatter of all is
``Σ Mᵢ + nᵢ (μᵢ - μ)(μᵢ - μ)ᴴ`` (Chan, Golub & LeVeque 1979). One sum over the processes
tells μ for every point, one more for each point its scatter, which only the process that
solves it receives. Where all together have fewer samples than features, it receives the
samples, and solves their Gram matrix.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from svdhooks.distributed.shares import balanced
from svdhooks.distributed.summaries import Key, Share, Summary, total_of
from svdhooks.distributed.team import Team
from svdhooks.linalg import CovarianceAccumulator, Moments
from svdhooks.linalg.units import UnitStatistics
from svdhooks.reports import status_of

__all__ = ["Key", "Share", "merge"]

SENT_TOGETHER = 2**21
"""How many numbers are sent at once: 16 MiB in float64. One large matrix may be more."""


def merge(
    team: Team, keys: Sequence[Key], shares: Mapping[Key, Share]
) -> dict[Key, Share]:
    """Merge what each process saw; collective.

    Args:
        team: The processes.
        keys: The points, the same on all in the same order.
        shares: Of this process; a point that it did not see may be missing.

    Returns:
        The points that this process is to solve, each with the samples of all; a point
        that failed on one process has that problem.

    Raises:
        TeamError: If the others cannot be reached.
    """
    mine = [shares.get(key, Share()) for key in keys]
    told = team.exchange([share.summary() for share in mine])
    totals = [total_of(column) for column in zip(*told, strict=True)]
    solvers = balanced([min(t.count, t.d) ** 3 for t in totals], team.size)
    merger = _Merger(team, mine, totals, solvers)
    merged = merger.merged()
    found = {
        key: merged.get(number) or Share(problem=totals[number].problem)
        for number, key in enumerate(keys)
        if solvers[number] == team.rank
    }
    late = team.exchange({k: s.problem for k, s in zip(keys, mine, strict=True)})
    for rank, problems in enumerate(late):
        for key in found.keys() & {k for k, text in problems.items() if text}:
            if found[key].problem is None:
                found[key] = Share(problem=f"{problems[key]} (rank {rank})")
    return found


@dataclass
class _Merger:
    """The sums that concern all points are made once, at the beginning."""

    team: Team
    shares: Sequence[Share]
    totals: Sequence[Summary]
    solvers: Sequence[int]
    means: dict[int, Tensor] = field(default_factory=dict)
    units: dict[int, UnitStatistics] = field(default_factory=dict)
    buffer: Tensor = field(default_factory=lambda: torch.zeros(0))

    def __post_init__(self) -> None:
        """Add up means and units of all points; make room for the largest scatter."""
        sums = [self._local(n, _sums) for n in self._numbers()]
        peaks = [self._local(n, _peaks) for n in self._numbers()]
        added = torch.cat(sums) if sums else torch.zeros(0, dtype=torch.float64)
        most = torch.cat(peaks) if peaks else torch.zeros(0, dtype=torch.float64)
        self.team.add(added)
        self.team.largest(most)
        lengths = [self.totals[n].d for n in self._numbers()]
        parts = torch.split(added, [4 * d for d in lengths])
        tops = torch.split(most, [2 * d for d in lengths])
        for number, part, top in zip(self._numbers(), parts, tops, strict=True):
            self._take(number, part, top)
        self._reserve()

    def _numbers(self) -> list[int]:
        return [n for n, total in enumerate(self.totals) if total.mergeable]

    def _local(self, number: int, read: Callable[[Share, int], Tensor]) -> Tensor:
        """What this process adds; NaN where that fails, because the others wait."""
        d, share = self.totals[number].d, self.shares[number]
        try:
            return read(share, d)
        except Exception as error:  # noqa: BLE001  # a measurement may fail
            share.problem = status_of(error)
            return read(Share(), d) + torch.nan

    def _take(self, number: int, sums: Tensor, peaks: Tensor) -> None:
        total = self.totals[number]
        real, imaginary, absolute, unknown = sums.chunk(4)
        mean = torch.complex(real, imaginary) if total.is_complex else real
        self.means[number] = mean / total.count
        high, low = peaks.chunk(2)
        nan = torch.where(unknown == 0, 0.0, torch.nan)
        self.units[number] = UnitStatistics.of(
            total.count, nan - low, nan + high, absolute
        )

    def _width(self, number: int) -> int:
        """Of what is sent of a point, in numbers."""
        total = self.totals[number]
        rows = total.count if total.as_samples else total.d
        return rows * total.d * (2 if total.is_complex else 1)

    def _batches(self) -> Iterator[tuple[int, bool, list[int]]]:
        """What is sent together: to one process, in one form, not too much at once."""
        for solver in range(self.team.size):
            for as_samples in (True, False):
                batch: list[int] = []
                for number in self._numbers():
                    form = self.solvers[number], self.totals[number].as_samples
                    if form != (solver, as_samples):
                        continue
                    sent = sum(map(self._width, [*batch, number]))
                    if batch and sent > SENT_TOGETHER:
                        yield solver, as_samples, batch
                        batch = []
                    batch.append(number)
                if batch:
                    yield solver, as_samples, batch

    def _reserve(self) -> None:
        """Make room once; whoever cannot keeps all from sending scatters."""
        sizes = [
            sum(map(self._width, batch))
            for _, as_samples, batch in self._batches()
            if not as_samples
        ]
        if not sizes:
            return
        try:
            self.buffer = torch.zeros(max(sizes), dtype=torch.float64)
        except Exception:  # noqa: BLE001  # out of memory: it is said for each point
            self.buffer = torch.zeros(0)
        if not self.team.agree(self.buffer.numel() > 0):
            self.buffer = torch.zeros(0)

    def merged(self) -> dict[int, Share]:
        """Send all points to the processes that solve them.

        Returns:
            Those of this process.
        """
        found: dict[int, Share] = {}
        for solver, as_samples, batch in self._batches():
            if not as_samples and not self.buffer.numel():
                problem = "out of memory for the scatter of all ranks"
                found |= {number: Share(problem=problem) for number in batch}
                continue
            send = self._samples if as_samples else self._scatters
            put_together = send(batch, solver)
            for number in batch:
                share = self.shares[number]
                share.samples = None  # freed as soon as it is sent
                if self.team.rank == solver:
                    found[number] = self._taken(number, put_together)
        return found

    def _taken(
        self, number: int, put_together: Callable[[int], CovarianceAccumulator]
    ) -> Share:
        share, dtype = self.shares[number], self.totals[number].dtype
        try:
            return Share(put_together(number), self.units[number], dtype, share.problem)
        except Exception as error:  # noqa: BLE001  # that of one point, not of all
            return Share(problem=f"{status_of(error)} (rank {self.team.rank})")

    def _scatters(
        self, batch: Sequence[int], solver: int
    ) -> Callable[[int], CovarianceAccumulator]:
        """Add up; the process that solves them has copies of the sums made."""
        widths = [self._width(number) for number in batch]
        sent = self.buffer[: sum(widths)].zero_()
        parts = dict(zip(batch, torch.split(sent, widths), strict=True))
        for number, flat in parts.items():
            if not self._sees(number):
                continue
            try:
                _add_scatter(flat, self.shares[number], self.means[number])
            except Exception as error:  # noqa: BLE001  # the others wait for something
                flat.fill_(torch.nan)
                self.shares[number].problem = status_of(error)
        self.team.add(sent, to=solver)

        def put_together(number: int) -> CovarianceAccumulator:
            total = self.totals[number]
            whole = _square(parts[number], total.d, total.is_complex).clone()
            moments = Moments(total.count, self.means[number], whole)
            return CovarianceAccumulator.of(moments)

        return put_together

    def _samples(
        self, batch: Sequence[int], solver: int
    ) -> Callable[[int], CovarianceAccumulator]:
        """Bring all samples to the process that solves them."""
        own: dict[int, Tensor] = {}
        for number in batch:
            share = self.shares[number]
            try:
                samples = None if share.samples is None else share.samples.samples
                if samples is not None and len(samples):
                    own[number] = samples.cpu()
            except Exception as error:  # noqa: BLE001  # the others wait for something
                share.problem = status_of(error)
        told = self.team.collect(own, to=solver) or []

        def put_together(number: int) -> CovarianceAccumulator:
            whole = CovarianceAccumulator(self.totals[number].d)
            for each in told:
                if number in each:
                    whole.update(each[number])
            return whole

        return put_together

    def _sees(self, number: int) -> bool:
        samples = self.shares[number].samples
        return samples is not None and samples.count > 0


def _sums(share: Share, d: int) -> Tensor:
    """Real and imaginary part of Σx, Σ|x|, and how often a unit is NaN."""
    if share.samples is None or share.units is None or not share.samples.count:
        return torch.zeros(4 * d, dtype=torch.float64)
    total = share.samples.mean.cpu() * share.samples.count
    imaginary = total.imag if total.is_complex() else torch.zeros_like(total)
    extremes = share.units.minimum.cpu() + share.units.maximum.cpu()
    parts = (
        total.real,
        imaginary,
        share.units.total_absolute.cpu(),
        extremes.isnan(),
    )
    return torch.cat([part.to(torch.float64) for part in parts])


def _peaks(share: Share, d: int) -> Tensor:
    """The largest value of each unit, and of its negative; no NaN."""
    if share.units is None or not share.units.count:
        return torch.full((2 * d,), -torch.inf, dtype=torch.float64)
    both = torch.cat([share.units.maximum.cpu(), -share.units.minimum.cpu()])
    return torch.where(both.isnan(), -torch.inf, both.to(torch.float64))


def _add_scatter(flat: Tensor, share: Share, mean: Tensor) -> None:
    """Add ``M + n (μᵢ - μ)(μᵢ - μ)ᴴ``; without a second matrix where μ is real."""
    samples: Any = share.samples
    moments = samples.moments(mean.dtype)
    target = _square(flat, len(mean), mean.is_complex())
    target += moments.scatter.to(target)
    shift = moments.mean.to(mean) - mean
    target.addr_(shift, shift.conj().resolve_conj(), alpha=moments.count)


def _square(flat: Tensor, d: int, is_complex: bool) -> Tensor:
    return torch.view_as_complex(flat.view(d, d, 2)) if is_complex else flat.view(d, d)
