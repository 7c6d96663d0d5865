"""``svdhooks alarms``: what went wrong in a run, said again from its log; no torch."""

import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from svdhooks.alarms import AlarmEvent, Alarms, alarms_of, loss_source, resolve_alarms
from svdhooks.alarms.choosing import RULES
from svdhooks.cli.root import FOUND
from svdhooks.cli.telling import (
    guarded,
    matching,
    open_runs,
    plain,
    progress,
    suggestion,
)
from svdhooks.runlog import RunLog

LIVE, AFTERWARDS = "live", "read afterwards"
ANY = "any"
_SEVERITIES = ("alarm", "info")
_NAME = 24
_STYLES = {"alarm": "red", "info": "cyan"}


@dataclass(frozen=True)
class Asked:
    """The options.

    Attributes:
        preset: Presets or names of rules, with commas between.
        loss: Tag of the training loss; None: found by its name.
        layers: Glob on names of layers.
        fail_on: Rules, severities, or ``"any"``.
        as_json: Print JSON instead of tables.
    """

    preset: str = "auto"
    loss: str | None = None
    layers: str = "*"
    fail_on: tuple[str, ...] = ()
    as_json: bool = False


@dataclass(frozen=True)
class Raised:
    """An event of a run.

    Attributes:
        event: What a rule said.
        live: Whether it was raised during the training.
        afterwards: Whether the rules raise it from the log.
    """

    event: AlarmEvent
    live: bool
    afterwards: bool

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        sources = [
            name
            for name, there in ((LIVE, self.live), (AFTERWARDS, self.afterwards))
            if there
        ]
        return {**self.event.as_dict(), "source": sources}


@dataclass(frozen=True)
class _Found:
    """The events of a run, and the loss that rules looked at."""

    log: RunLog
    loss: str | None
    raised: Sequence[Raised]


def alarms(logdir: Path, asked: Asked, console: Console | None = None) -> int:
    """List the alarms of the runs at and below a directory.

    Args:
        logdir: Directory of a run, or of several.
        asked: Which rules, and what to fail on.
        console: Where to print.

    Returns:
        Exit status: 2 if there is an event to fail on.
    """
    console = console or Console(emoji=False, highlight=False)
    return guarded(lambda: _alarms(logdir, asked, console))


def _alarms(logdir: Path, asked: Asked, console: Console) -> int:
    rules = resolve_alarms([name.strip() for name in asked.preset.split(",")])
    fail_on = _to_fail_on(asked.fail_on, rules)
    logs = open_runs([logdir])
    everything = [n for log in logs.values() for n in (*log.layers, *log.edges)]
    if asked.layers != "*":
        matching("layer", list(dict.fromkeys(everything)), asked.layers)
    found = {}
    with progress("alarms") as tell:
        for done, (name, log) in enumerate(logs.items()):
            tell(name, done, len(logs))
            found[name] = _found(log, rules, asked)
    failing = [
        raised
        for of_run in found.values()
        for raised in of_run.raised
        if not fail_on.isdisjoint({raised.event.alarm, raised.event.severity, ANY})
    ]
    if asked.as_json:
        _print_json(found, asked, failing, console)
    else:
        for name, of_run in found.items():
            _print_run(name, of_run, asked, console)
    return FOUND if failing else 0


def _to_fail_on(given: Sequence[str], rules: Alarms | None) -> frozenset[str]:
    """The words of ``--fail-on``.

    Args:
        given: Words, perhaps with commas between.
        rules: Those that are run.

    Returns:
        Rules and severities.

    Raises:
        ValueError: If there is none of a name.
    """
    words = [word.strip() for text in given for word in text.split(",")]
    own = () if rules is None else tuple(rule.name for rule in rules.rules)
    known = list(dict.fromkeys((*own, *RULES, *_SEVERITIES, ANY)))
    for word in words:
        if word not in known:
            raise ValueError(
                f"--fail-on {word!r}: no such rule. {suggestion([word], known)}"
            )
    return frozenset(words)


def _found(log: RunLog, rules: Alarms | None, asked: Asked) -> _Found:
    """What was raised during a run, and what the rules raise from its log."""
    source = loss_source(log) if asked.loss is None else asked.loss
    afterwards = alarms_of(log, rules, loss=asked.loss)
    raised = {_key(event): Raised(event, False, True) for event in afterwards}
    for told in log.alarms():
        event = AlarmEvent.from_dict(told)
        same = raised.get(_key(event), Raised(event, True, False))
        raised[_key(event)] = replace(same, live=True)
    chosen = [
        one
        for one in raised.values()
        if fnmatch.fnmatchcase(one.event.layer, asked.layers)
    ]
    return _Found(log, source, sorted(chosen, key=lambda one: one.event.step))


def _key(event: AlarmEvent) -> tuple[int, str, str]:
    return event.step, event.layer, event.alarm


def _print_json(
    found: Mapping[str, _Found],
    asked: Asked,
    failing: Sequence[Raised],
    console: Console,
) -> None:
    told = {
        "preset": asked.preset,
        "fail_on": list(asked.fail_on),
        "failed": bool(failing),
        "runs": [
            {
                "name": name,
                "path": str(of_run.log.log_dir),
                "loss": of_run.loss,
                "alarms": [one.as_dict() for one in of_run.raised],
            }
            for name, of_run in found.items()
        ],
    }
    text = json.dumps(told, indent=2)
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _print_run(name: str, found: _Found, asked: Asked, console: Console) -> None:
    steps = found.log.steps
    span = f"steps {steps[0]}–{steps[-1]}" if len(steps) else "no steps"
    console.print(
        f"{plain(name)}   [dim]{len(steps)} records, {span}; rules: "
        f"{plain(asked.preset)}; {_loss(found.loss)}[/dim]",
        soft_wrap=True,
    )
    if not found.raised:
        console.print("[green]No alarms.[/green]\n")
        return
    table = Table(
        box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True
    )
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("layer", overflow="fold", max_width=_NAME)
    table.add_column("rule", no_wrap=True)
    table.add_column("what", overflow="fold", ratio=1)
    for one in found.raised:
        event = one.event
        live = "\n[bold]live[/bold]" if one.live else ""
        table.add_row(
            str(event.step),
            plain(event.layer, 200) or "[dim]whole run[/dim]",
            f"[{_STYLES[event.severity]}]{plain(event.alarm)}[/]{live}",
            plain(event.message),
        )
    console.print(table)


def _loss(source: str | None) -> str:
    """Which loss the rules looked at, in words."""
    if source is None:
        return "no training loss found, see --loss"
    if source == "loss":
        return "loss as given to the recorder"
    return f"loss: scalar {plain(source)!r}"
