"""Tables of false and missed alarms."""

import statistics
from collections.abc import Sequence

from alarm_runs.judging import CHOICES, NAIVE, OWN, Found

OTHERS = [choice for choice in CHOICES if choice not in {OWN, NAIVE}]

Row = tuple[str, ...]


def spoken(events: Sequence[object], most: int = 3) -> str:
    """Rules in the order in which they spoke, with their first steps."""
    first: dict[str, int] = {}
    for event in events:
        first.setdefault(event.alarm, event.step)
    told = [f"{name} {step}" for name, step in list(first.items())[:most]]
    return ", ".join(told + ["…"] * (len(first) > most)) or "-"


def healthy_rows(found: Sequence[Found]) -> list[Row]:
    """A row for each healthy run: false alarms, information."""
    return [
        (
            f.run.name,
            f.run.what,
            f.run.preset,
            spoken(f.alarms(OWN)),
            spoken([e for e in f.events[OWN] if e.severity == "info"]),
            _false_elsewhere(f),
        )
        for f in found
        if f.verdict.healthy
    ]


def _false_elsewhere(found: Found) -> str:
    """Choices other than the own one under which there are alarms."""
    others = [c for c in OTHERS if c != found.run.preset and found.alarms(c)]
    return ", ".join(f"{c}: {spoken(found.alarms(c), 1)}" for c in others) or "-"


def collapsing_rows(found: Sequence[Found]) -> list[Row]:
    """A row for each collapsing run: since when, the alarms, the lag."""
    rows = []
    for f in found:
        if f.verdict.healthy:
            continue
        lag = f.lag(OWN)
        rows.append((
            f.run.name,
            f.run.what,
            f.run.preset,
            "never well" if f.verdict.since == 0 else str(f.verdict.since),
            spoken(f.alarms(OWN)),
            "" if lag is None else f"{lag:+d}",
            _missed_elsewhere(f),
        ))
    return rows


def _missed_elsewhere(found: Found) -> str:
    others = [c for c in OTHERS if c != found.run.preset and not found.alarms(c)]
    return ", ".join(others) or "-"


def counted(found: Sequence[Found]) -> list[Row]:
    """A row for each choice: false alarms, missed ones, the median lag."""
    rows = []
    for choice in CHOICES:
        well = [f for f in found if f.verdict.healthy]
        ill = [f for f in found if not f.verdict.healthy]
        false = sum(bool(f.alarms(choice)) for f in well)
        missed = sum(not f.alarms(choice) for f in ill)
        lags = [lag for f in ill if (lag := f.lag(choice)) is not None]
        told = f"{statistics.median(lags):+g}" if lags else ""
        worst = f"{min(lags):+d} … {max(lags):+d}" if lags else ""
        rows.append((
            choice,
            f"{false} of {len(well)}",
            f"{missed} of {len(ill)}",
            told,
            worst,
        ))
    return rows


def markdown(head: Row, rows: Sequence[Row]) -> str:
    """A table for a document."""
    lines = (head, tuple("---" for _ in head), *rows)
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines
    )
