"""Which runs are compared, and which of them are seeds of the same thing."""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from svdhooks.display.overview import Source
from svdhooks.runlog import RunLog, runs

Value = bool | int | float | str
Path_ = str | os.PathLike[str]
Runs = Path_ | Mapping[str, Any] | Sequence[Any]

MISSING = "?"
# of where a run is written, or what it is called, if no two runs have the same
_NAMES = re.compile(
    r"(^|[._/])(\w*(dir|path|name|version|id|time|date|device|devices))$"
)


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone.

    Attributes:
        name: ``"lr=0.1, wd=0"``, or what the names of the runs have in common.
        values: Hyper-parameter -> value; empty where names were used.
        runs: Their names.
    """

    name: str
    values: Mapping[str, Value]
    runs: tuple[str, ...]


def resolve_runs(given: Runs) -> dict[str, Source]:
    """What a user has, as runs.

    Args:
        given: A directory that holds runs; what ``svdhooks.runs`` returns; a list of
            directories, or of runs.

    Returns:
        Name -> run.

    Raises:
        TypeError: If something is no run and no path.
        ValueError: If there are less than two.
    """
    if isinstance(given, str | os.PathLike):
        found = cast("dict[str, Source]", runs(given))
    elif isinstance(given, Mapping):
        found = {str(name): _one(run) for name, run in given.items()}
    else:
        found = _several(given)
    if len(found) < 2:
        there = next(iter(found), None)
        raise ValueError(
            f"Found {'no run' if there is None else f'one run, {there!r}'}, expected two "
            "or more to compare: a directory that holds runs, or a list of them."
        )
    return found


def group_runs(
    found: Mapping[str, Source],
    by: str | Sequence[str] | Mapping[str, str] | None,
    seeds: str | None,
) -> tuple[tuple[Group, ...], tuple[str, ...], list[str]]:
    """Sort runs into groups.

    Args:
        found: The runs.
        by: Hyper-parameters that tell groups apart; or run -> group; None: those that
            differ between runs, else the names of the runs without their seeds.
        seeds: The hyper-parameter, or the word in names, that tells replicates apart.

    Returns:
        Groups in the order of their values, the hyper-parameters, and what should be
        known about it.
    """
    if isinstance(by, Mapping):
        return _by_mapping(found, by), (), []
    hparams = {name: dict(getattr(run, "hparams", {})) for name, run in found.items()}
    varying = _varying(hparams)
    notes: list[str] = []
    if by is None:
        chosen = tuple(n for n in varying if not _is(n, seeds) and not _own(n, hparams))
        if not chosen:
            return _by_name(found, seeds, notes), (), notes
        notes.append(
            f"Groups by {', '.join(chosen)}: the hyper-parameters that differ between "
            "runs. Choose others with by=."
        )
    else:
        asked = [by] if isinstance(by, str) else by
        names = [part.strip() for text in asked for part in text.split(",")]
        chosen = tuple(_known(name, hparams) for name in names if name)
    members: dict[tuple[Value, ...], list[str]] = {}
    for name in found:
        values = tuple(hparams[name].get(key, MISSING) for key in chosen)
        members.setdefault(values, []).append(name)
    short = _shortened(chosen)
    groups = tuple(
        Group(
            ", ".join(f"{n}={v}" for n, v in zip(short, values, strict=True)),
            dict(zip(chosen, values, strict=True)),
            tuple(members[values]),
        )
        for values in sorted(members, key=lambda values: [_order(v) for v in values])
    )
    notes += _within(groups, hparams, set(varying) - set(chosen), seeds)
    return groups, chosen, notes


def _one(run: Any) -> Source:
    """A run, or the run at a path."""
    if isinstance(run, str | os.PathLike):
        return cast("Source", RunLog(run))
    if not isinstance(run, Source):
        raise TypeError(
            f"Found {type(run).__name__}, expected a svdhooks.RunLog, a "
            "svdhooks.MemorySink, or a path."
        )
    return run


def _several(given: Sequence[Any]) -> dict[str, Source]:
    """Runs of a list; directories that hold several give all of these."""
    paths = [Path(run) for run in given if isinstance(run, str | os.PathLike)]
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError("A path is given twice; expected different runs.")
    absolute = [path.resolve() for path in paths]
    parent = os.path.commonpath([path.parent for path in absolute]) if paths else ""
    found: dict[str, Source] = {}
    for run in given:
        if isinstance(run, str | os.PathLike):
            base = os.path.relpath(Path(run).resolve(), parent)
            below = runs(run) or {".": RunLog(run)}  # which says what is wrong
            for name, log in below.items():
                own = name == Path(run).resolve().name or name == "."
                found[base if own else f"{base}/{name}"] = cast("Source", log)
        else:
            source = _one(run)
            name = str(getattr(source, "name", f"run {len(found)}"))
            while name in found:
                name += "′"
            found[name] = source
    return found


def _by_mapping(
    found: Mapping[str, Source], by: Mapping[str, str]
) -> tuple[Group, ...]:
    """As the user says."""
    missing = [name for name in found if name not in by]
    if missing:
        raise ValueError(
            f"by= names no group of {', '.join(map(repr, missing[:5]))}; expected one "
            "for every run."
        )
    members: dict[str, list[str]] = {}
    for name, group in by.items():
        if name in found:
            members.setdefault(group, []).append(name)
    return tuple(Group(name, {}, tuple(own)) for name, own in members.items())


def _by_name(
    found: Mapping[str, Source], seeds: str | None, notes: list[str]
) -> tuple[Group, ...]:
    """Runs whose names are the same but for their seeds."""
    word = rf"(?<![a-zA-Z])(?:{re.escape(seeds)}|seed|s)[ =_-]?\d+" if seeds else r"$^"
    pattern = re.compile(rf"[/._, -]*{word}(?![a-zA-Z0-9])", re.IGNORECASE)
    members: dict[str, list[str]] = {}
    for name in found:
        members.setdefault(pattern.sub("", name).strip("/._, -"), []).append(name)
    if len(members) == 1:  # seeds of one thing, or each a thing of its own
        members = {name: [name] for name in found}
        notes.append(
            "The runs differ in no hyper-parameter that is known, and their names in no "
            "more than seeds: each is compared with the first. Say what tells them apart "
            "with by={run: group}, or record it with watch(..., hparams=...)."
        )
    elif any(len(own) > 1 for own in members.values()):
        notes.append("Groups by the names of the runs, without their seeds.")
    return tuple(Group(name, {}, tuple(own)) for name, own in members.items())


def _varying(hparams: Mapping[str, Mapping[str, Value]]) -> list[str]:
    """Hyper-parameters that are not the same in all runs, in their order."""
    names = dict.fromkeys(name for own in hparams.values() for name in own)
    return [
        name
        for name in names
        if len({repr(own.get(name, MISSING)) for own in hparams.values()}) > 1
    ]


def _known(name: str, hparams: Mapping[str, Mapping[str, Value]]) -> str:
    """The full name of a hyper-parameter."""
    names = list(dict.fromkeys(key for own in hparams.values() for key in own))
    if name in names:
        return name
    ends = [key for key in names if key.endswith(f".{name}")]
    if len(ends) == 1:
        return ends[0]
    close = ends or difflib.get_close_matches(name, names, 3) or names[:10]
    there = ", ".join(close) or "none: record them with watch(..., hparams={...})"
    raise ValueError(
        f"No run has the hyper-parameter {name!r}; there is {there}. Groups can be named "
        "too: by={run: group}."
    )


def _within(
    groups: Sequence[Group],
    hparams: Mapping[str, Mapping[str, Value]],
    others: set[str],
    seeds: str | None,
) -> list[str]:
    """What else differs between the runs of a group, and seeds that are there twice."""
    notes, shared = [], []
    mixed: dict[str, None] = {}
    for group in groups:
        own = {run: hparams[run] for run in group.runs}
        mixed |= dict.fromkeys(n for n in _varying(own) if n in others)
        names = {n for row in own.values() for n in row if _is(n, seeds)}
        told = [tuple(str(row.get(n)) for n in sorted(names)) for row in own.values()]
        if names and len(set(told)) < len(told):
            shared.append(group.name)
    if shared:
        notes.append(
            f"Runs within {', '.join(map(repr, shared[:5]))}"
            f"{' …' if len(shared) > 5 else ''} share a seed: they may be no independent "
            "replicates."
        )
    mixed = {n: None for n in mixed if not _is(n, seeds) and not _own(n, hparams)}
    if mixed:
        notes.append(
            f"Runs of one group also differ in {', '.join(sorted(mixed))}: what that does "
            "counts as spread."
        )
    return notes


def _is(name: str, seeds: str | None) -> bool:
    """Whether a hyper-parameter is the seed."""
    return seeds is not None and name.rpartition(".")[2].lower() == seeds.lower()


def _own(name: str, hparams: Mapping[str, Mapping[str, Value]]) -> bool:
    """Whether it only says what a run is called or where it is."""
    values = {repr(own.get(name, MISSING)) for own in hparams.values()}
    return len(values) == len(hparams) and _NAMES.search(name) is not None


def _shortened(names: Sequence[str]) -> list[str]:
    """The last parts of dotted names, where these are different."""
    short = [name.rpartition(".")[2] for name in names]
    return short if len(set(short)) == len(short) else list(names)


def _order(value: Value) -> tuple[int, float, str]:
    """Numbers by size, then words, then what is missing."""
    if isinstance(value, str):
        return (2 if value == MISSING else 1, 0.0, value)
    return (0, float(value), "")
