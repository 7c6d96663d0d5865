"""Local rank, ledger, scalars and values of the whole run."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.analysis.reporting.gathering import Gathering
from svdhooks.analysis.reporting.reading import Remarks, thinned
from svdhooks.display.overview import title_of

_JACOBIAN, _LEDGER = "jacobian_", "ledger_"
_KINDS = {
    "relative": ("relative_local_rank", "relative_eps"),
    "absolute": ("local_rank", "eps"),
}
_SPREAD = {"mean": "", "std": "_std", "min": "_min", "max": "_max"}
_MOST = 300
_POINTS = 1000
_SCALARS = 40
_WIDE, _WORDS = 4, 400

Entry = dict[str, Any]


def local_ranks(gathering: Gathering, remarks: Remarks) -> dict[str, dict[str, Entry]]:
    """The local rank of each layer that has one, by both thresholds.

    Args:
        gathering: The run.
        remarks: With the marks of its Jacobians.

    Returns:
        Layer -> ``"relative"``, ``"absolute"`` -> entry, as the page has it.
    """
    room = gathering.room.share(0.15)
    found: dict[str, dict[str, Entry]] = {}
    missed = 0
    for kind, (name, _) in _KINDS.items():
        if _JACOBIAN + name not in gathering.log.metrics:
            continue
        for layer in gathering.layers:
            bounded = remarks.limited.get((layer, "jacobian"), set())
            steps = _steps(gathering, layer, _JACOBIAN + name)
            if not len(steps):
                continue
            if room.take(len(steps) * 5 * _WIDE + 2 * len(layer) + _WORDS):
                entry = _local_rank(gathering, layer, kind, steps, bounded)
                found.setdefault(layer, {})[kind] = entry
            else:
                missed += 1
    gathering.room.left += room.left
    if missed:
        gathering.notes.append(
            f"{missed} curves of the local rank had no room on this page. "
            "log.local_rank(layer, relative=True) has them."
        )
    return found


def ledgers(gathering: Gathering) -> dict[str, Entry]:
    """The ledger of each layer that has one.

    Args:
        gathering: The run.

    Returns:
        Layer -> entry, as the page has it.
    """
    names = [m for m in gathering.log.metrics if m.startswith(_LEDGER)]
    room = gathering.room.share(0.15)
    found: dict[str, Entry] = {}
    missed = 0
    for layer in gathering.layers if names else ():
        steps = _steps(gathering, layer, names[0])
        if not len(steps):
            continue
        if not room.take(len(steps) * len(names) * _WIDE + 2 * len(layer) + _WORDS):
            missed += 1
            continue
        fields = {
            m.removeprefix(_LEDGER): _at(gathering, layer, m, steps) for m in names
        }
        add = gathering.page.add
        found[layer] = {
            "steps": add(steps),
            "fields": {name: add(values) for name, values in fields.items()},
            "call": f"log.ledger({layer!r})",
        }
    gathering.room.left += room.left
    if missed:
        gathering.notes.append(
            f"The ledger of {missed} layers had no room on this page. "
            "log.ledger(layer) has it."
        )
    return found


def scalars(gathering: Gathering, loss: str | None) -> list[Entry]:
    """What others logged beside the run, and the loss, which comes first.

    Args:
        gathering: The run.
        loss: Where the training loss stands: ``"loss"`` among the run's own values, or
            a scalar; None: nowhere.

    Returns:
        One entry for each, as the page has it.
    """
    log, found = gathering.log, []
    room = gathering.room.share(0.1)
    if "loss" in log.run_metrics:
        found.append(_scalar(gathering, "loss", own=True, is_loss=loss == "loss"))
    tags = [t for t in log.scalar_tags if not t.startswith("svd_")]
    tags.sort(key=lambda tag: (tag != loss, "loss" not in tag.lower()))
    shown = 0
    for tag in tags[:_SCALARS]:
        if not room.take(2 * _POINTS * _WIDE + 2 * len(tag) + _WORDS):
            break
        found.append(_scalar(gathering, tag, own=False, is_loss=tag == loss))
        shown += 1
    gathering.room.left += room.left
    gathering.note(
        shown, len(tags), "logged scalars are shown", "log.scalars(tag) has all."
    )
    return found


def run_measures(gathering: Gathering) -> list[Entry]:
    """Values of the whole run, such as the share of the time that recording took.

    Args:
        gathering: The run.

    Returns:
        One entry for each, as the page has it.
    """
    found = []
    for name in gathering.log.run_metrics:
        if name in {"loss", "logged_step"}:
            continue  # a scalar, and an axis
        steps, values = gathering.log.run_series(name)
        kept = thinned(len(steps), _POINTS)
        found.append({
            "name": name,
            "title": title_of(name),
            "steps": gathering.add(steps[kept]),
            "values": gathering.add(values[kept]),
            "call": f"log.run_series({name!r})",
        })
    return found


def _scalar(gathering: Gathering, tag: str, *, own: bool, is_loss: bool) -> Entry:
    log = gathering.log
    steps, values = log.run_series(tag) if own else log.scalars(tag)
    kept = thinned(len(steps), _POINTS)
    return {
        "tag": tag,
        "steps": gathering.page.add(steps[kept]),
        "values": gathering.page.add(values[kept]),
        "is_loss": is_loss,
        "of": len(steps),
        "call": f"log.{'run_series' if own else 'scalars'}({tag!r})",
    }


def _local_rank(
    gathering: Gathering,
    layer: str,
    kind: str,
    steps: NDArray[np.int64],
    bounded: set[int],
) -> Entry:
    name, eps = _KINDS[kind]
    add = gathering.page.add
    curves = {
        key: add(_at(gathering, layer, f"{_JACOBIAN}{name}{end}", steps))
        for key, end in _SPREAD.items()
    }
    thresholds = _at(gathering, layer, _JACOBIAN + eps, steps)
    return {
        "steps": add(steps),
        **curves,
        "threshold": _threshold(thresholds, kind),
        "bound": add(np.isin(steps, list(bounded))),
        "call": f"log.local_rank({layer!r}, relative={kind == 'relative'})",
    }


def _threshold(eps: NDArray[np.float64], kind: str) -> str:
    """What is counted, in words."""
    told = np.unique(eps[np.isfinite(eps)].astype(np.float32))
    value = f"{float(str(told[0])):g}" if len(told) == 1 else "ε"
    return f"σ > {value}{'·σ₁' if kind == 'relative' else ''}"


def _steps(gathering: Gathering, layer: str, metric: str) -> NDArray[np.int64]:
    """The steps of a measure, thinned."""
    steps = gathering.log.series(layer, metric)[0]
    return steps[thinned(len(steps), _MOST)]


def _at(
    gathering: Gathering, layer: str, metric: str, steps: NDArray[np.int64]
) -> NDArray[np.float64]:
    """A measure at some steps; NaN where it was not made."""
    values = np.full(len(steps), np.nan)
    if metric in gathering.log.metrics:
        at, found = gathering.log.series(layer, metric)
        here = np.isin(at, steps)
        values[np.searchsorted(steps, at[here])] = found[here]
    return values
