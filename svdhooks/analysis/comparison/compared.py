"""Runs side by side: which layers differ, since when, and by how much.

What differs between two settings is held against what differs between seeds of one.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from svdhooks.analysis.comparison import text
from svdhooks.analysis.comparison.axes import Alignment, align
from svdhooks.analysis.comparison.curves import Curve, curves_of
from svdhooks.analysis.comparison.rows import ALPHA, Difference, differences
from svdhooks.analysis.comparison.runs import Group, Runs, group_runs, resolve_runs
from svdhooks.display.overview import HEADLINES, Source

if TYPE_CHECKING:
    import pandas as pd

_CURVES = 100


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        align: What the runs are aligned by.
        by: The hyper-parameters that tell groups apart.
        groups: The runs of each; those without the alignment are left out.
        reference: The group that the others are compared with.
        metrics: Names of the measures.
        curves: Of every layer and measure, each run on a common grid.
        differences: Of every layer, measure and group but the reference, the surest
            first; those without a spread by size.
        absent: Layer -> runs that do not have it.
        notes: What should be known about all this.
    """

    align: str
    by: tuple[str, ...]
    groups: tuple[Group, ...]
    reference: str
    metrics: tuple[str, ...]
    curves: tuple[Curve, ...]
    differences: tuple[Difference, ...]
    absent: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]

    def against(self, reference: str) -> "Comparison":
        """The same with another group as the reference.

        Args:
            reference: Name of a group.

        Returns:
            A comparison.

        Raises:
            ValueError: If there is no such group.
        """
        names = [group.name for group in self.groups]
        if reference not in names:
            raise ValueError(f"No group {reference!r}; there is {', '.join(names)}.")
        found = differences(self.curves, self.groups, reference)
        return replace(self, reference=reference, differences=found)

    def curve(self, layer: str, metric: str | None = None) -> Curve:
        """One measure of one layer in all runs.

        Args:
            layer: Its name.
            metric: One of ``metrics``; None: the first that the layer has.

        Returns:
            The curve.

        Raises:
            KeyError: If there is none.
        """
        for found in self.curves:
            if found.layer == layer and metric in {None, found.metric}:
                return found
        layers = list(dict.fromkeys(curve.layer for curve in self.curves))
        raise KeyError(
            f"No {metric or 'measure'} of layer {layer!r} is compared; there are "
            f"{', '.join(self.metrics)} of {', '.join(layers[:10])}"
            f"{' …' if len(layers) > 10 else ''}."
        )

    def rows(self) -> list[dict[str, Any]]:
        """The differences as plain mappings; see `Difference` for the fields."""
        return [difference.as_dict() for difference in self.differences]

    def frame(self) -> "pd.DataFrame":
        """The differences as a table. Needs pandas: ``svdhooks[analysis]``."""
        from svdhooks.runlog.frame import rows_frame

        return rows_frame(self.rows(), tuple(Difference.__dataclass_fields__))

    def text(self, width: int = 80) -> str:
        """What was found, in words and a table.

        Args:
            width: Characters of a line.

        Returns:
            Lines without markup, in which names cannot move a terminal's cursor.
        """
        return text.text(self, width)

    def headline(self) -> str:
        """What was found, in some sentences."""
        return text.headline(self)

    def sentences(self) -> list[str]:
        """The same, one text for each group but the reference."""
        return text.sentences(self)

    def __str__(self) -> str:
        return self.text()

    def as_dict(self, curves: int = _CURVES) -> dict[str, Any]:
        """Everything that a page shows, ready for JSON: NaN is None.

        Args:
            curves: The most curves, those of the surest differences first.

        Returns:
            ``align``, ``by``, ``groups``, ``reference``, ``metrics``, ``headline``,
            ``rows`` (see `rows`), ``curves`` (each layer, metric, x, and of each group
            mean, low and high, which are the mean ± one spread), ``absent``, ``notes``.
        """
        order = dict.fromkeys((d.layer, d.metric) for d in self.differences)
        place = {key: i for i, key in enumerate(order)}
        shown = sorted(
            self.curves, key=lambda c: place.get((c.layer, c.metric), len(place))
        )[:curves]
        notes = list(self.notes)
        if len(shown) < len(self.curves):
            notes.append(f"Curves of {len(shown)} of {len(self.curves)} are drawn.")
        return {
            "v": 1,
            "align": self.align,
            "by": list(self.by),
            "groups": [
                {"name": g.name, "values": dict(g.values), "runs": list(g.runs)}
                for g in self.groups
            ],
            "reference": self.reference,
            "metrics": list(self.metrics),
            "alpha": ALPHA,
            "headline": self.headline(),
            "rows": self.rows(),
            "curves": [curve.as_dict(self.groups) for curve in shown],
            "absent": {layer: list(runs) for layer, runs in self.absent.items()},
            "notes": notes,
        }


def compare(
    runs: Runs,
    *,
    metric: str | Sequence[str] | None = None,
    align: str = "step",
    by: str | Sequence[str] | Mapping[str, str] | None = None,
    seeds: str | None = "seed",
    layers: str | Sequence[str] = "*",
) -> Comparison:
    """Compare runs: which layers differ, since when, and by how much.

    Runs that differ by their seed alone are a group. For every layer and measure the
    other groups are compared with a reference, the first; `Comparison.against` takes
    another. A difference counts if it is beyond what seeds make: by Welch's t, of the
    mean over the last quarter of the records and of the mean over all of them, each run
    being one number; corrected for both and for all layers, measures and groups (Holm).
    So the chance that anything at all is called different between groups that are alike
    is at most 5 % (measured: 1 to 3 %). Groups of equal mean of which one spreads five
    times as widely are told apart in 8 % (3 and 3 runs) to 25 % (3 and 5). Among 20
    layers three seeds find half of the differences of eight spreads over single runs,
    five seeds seven in ten of those of four, and all of eight.
    Ranks and other positive values are compared as ratios. With one run in each group
    no spread is known, and nothing is called different.

    Args:
        runs: A directory that holds runs; what ``svdhooks.runs`` returns; a list of
            directories, or of runs.
        metric: Names or globs of measures; None: the headline ranks that were recorded.
        align: ``"step"``; ``"epoch"``, as the run recorded it; ``"loss"``: at equal
            training loss, where each run first reached it (running minimum of the
            running median); or the name of another value that falls.
        by: Hyper-parameters that tell groups apart, ``"lr,wd"`` or a list; or a mapping
            from runs to groups. None: those that differ between runs; where none are
            known, the names of the runs without ``seed3`` and the like.
        seeds: The hyper-parameter that tells replicates apart.
        layers: Globs of layers.

    Returns:
        The comparison.

    Raises:
        ValueError: If there are less than two runs, or nothing to compare; says what
            there is.
    """
    found = resolve_runs(runs)
    groups, names, notes = group_runs(found, by, seeds)
    alignment = _aligned(found, align, notes)
    there = {name: found[name] for name in alignment.axes}
    groups = tuple(
        replace(group, runs=kept)
        for group in groups
        if (kept := tuple(name for name in group.runs if name in there))
    )
    if len(groups) < 2:
        raise ValueError(
            f"All runs are in one group ({groups[0].name!r}: {', '.join(groups[0].runs)})."
            " Expected two or more: give other names with by=."
        )
    metrics = _metrics(there, metric)
    wanted, absent = _layers(there, layers)
    curves = curves_of(there, alignment, metrics, wanted, notes)
    reference = groups[0].name
    return Comparison(
        alignment.by,
        names,
        groups,
        reference,
        metrics,
        curves,
        differences(curves, groups, reference),
        absent,
        tuple(notes),
    )


def _aligned(found: Mapping[str, Source], by: str, notes: list[str]) -> Alignment:
    """The axes, with a note of the runs that have none."""
    alignment = align(found, by)
    notes += [f"{name} is left out: {why}." for name, why in alignment.left_out.items()]
    return alignment


def _metrics(
    runs: Mapping[str, Source], asked: str | Sequence[str] | None
) -> tuple[str, ...]:
    """The measures to compare, in the order in which they were recorded."""
    known = tuple(dict.fromkeys(m for run in runs.values() for m in run.metrics))
    derived = (m for run in runs.values() for m in getattr(run, "derived", ()))
    if asked is None:
        return tuple(m for m in HEADLINES if m in known) or known[:3]
    every = tuple(dict.fromkeys((*known, *derived)))
    found = tuple(m for m in every if _matches(m, asked))
    if not found:
        raise ValueError(
            f"No measure matches metric={asked!r}; there are {', '.join(known)}."
        )
    return found


def _layers(
    runs: Mapping[str, Source], asked: str | Sequence[str]
) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """The layers that match, and runs that lack some of them."""
    every = dict.fromkeys(name for run in runs.values() for name in run.layers)
    found = [name for name in every if _matches(name, asked)]
    if not found:
        shown = ", ".join(list(every)[:10]) or "none"
        raise ValueError(f"No layer matches layers={asked!r}; there are {shown}.")
    have = {name: set(run.layers) for name, run in runs.items()}
    absent = {
        layer: tuple(name for name, own in have.items() if layer not in own)
        for layer in found
    }
    return found, {layer: lacking for layer, lacking in absent.items() if lacking}


def _matches(name: str, globs: str | Sequence[str]) -> bool:
    """Whether one of some globs matches."""
    every = globs.split(",") if isinstance(globs, str) else globs
    return any(fnmatch.fnmatchcase(name, g.strip()) or name == g for g in every)
