"""False and missed alarms: healthy and collapsing trainings, and what the rules say.

Trains what is not yet in ``--logs`` (`alarm_runs` says how), goes through each log with
each preset, and compares with a truth beside the log, such as an accuracy on images kept
apart. Rules and thresholds were made on the runs in ``DIR``; those in ``DIR-held-out``
were not looked at. "own" is the preset that a user would choose for the run.

Usage: python benchmarks/alarms.py [--logs DIR] [--only NAME ...] [--jobs 2] [--quick]
"""

import argparse
import multiprocessing
import sys
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from _bench import show
from alarm_runs.collection import RUNS
from alarm_runs.cost import LAYERS, milliseconds, widened
from alarm_runs.judging import OWN, PRESETS, Found, evaluate
from alarm_runs.kit import Run, judge, train
from alarm_runs.tables import Row, collapsing_rows, counted, healthy_rows, markdown

import svdhooks
from svdhooks.alarms import readings

QUICK = (
    "mlp_adam", "not_a_number", "absurd_decay", "invariance_only",
    "mlp_decay", "two_classes", "dying",
)  # fmt: skip

HEALTHY = ("healthy run", "what", "preset", "false alarms", "information", "elsewhere")
COLLAPSING = (
    "collapsing run", "what", "preset", "truth", "alarms", "lag, records",
    "missed with",
)  # fmt: skip
COUNTED = ("preset", "false", "missed", "median lag, records", "lags")


def trained(name: str, logs: Path) -> str:
    """Train one run, in a process of its own, and say what the truth says."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    run = next(run for run in RUNS if run.name == name)
    there = run.folder(logs).exists()
    verdict = judge(run, train(run, logs))
    if verdict.healthy != run.healthy:
        meant = "healthy" if run.healthy else "collapsing"
        return f"{name}: meant to be {meant}, but the truth says {verdict}"
    return "" if there else f"{name}: {verdict}"


def train_all(runs: Sequence[Run], logs: Path, jobs: int) -> bool:
    """Train what is missing; whether all became what they were meant to be."""
    good = True
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for told in pool.map(trained, [r.name for r in runs], [logs] * len(runs)):
            good &= "meant to be" not in told
            if told:
                print(told, flush=True)
    return good


def tables_of(found: Sequence[Found]) -> list[tuple[str, Row, list[Row]]]:
    """Title, head and rows of each table."""
    tables: list[tuple[str, Row, list[Row]]] = []
    for held_out, title in ((False, "made on"), (True, "held out")):
        part = [f for f in found if f.run.held_out is held_out]
        if part:
            tables += [
                (f"Runs {title}: healthy", HEALTHY, healthy_rows(part)),
                (f"Runs {title}: collapsing", COLLAPSING, collapsing_rows(part)),
                (f"Runs {title}: counts", COUNTED, counted(part)),
            ]
    return tables


def cost_rows(runs: Sequence[Run], logs: Path) -> list[Row]:
    """What one record costs, of the first run whose layers have all quantities."""
    run = next((r for r in runs if r.preset == "lm"), runs[0])
    several = widened(list(readings(svdhooks.RunLog(run.folder(logs)))))
    found = {preset: milliseconds(several, preset) for preset in PRESETS}
    return [(p, f"{middle:.2f}", f"{most:.2f}") for p, (middle, most) in found.items()]


def arguments_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--logs", type=Path, help="kept and used again")
    parser.add_argument("--only", nargs="+", choices=[run.name for run in RUNS])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help=f"{len(QUICK)} short runs")
    parser.add_argument("--markdown", type=Path, help="write the tables here, too")
    parser.add_argument("--events", action="store_true", help="print every message")
    return parser.parse_args()


def main() -> int:
    arguments = arguments_of()
    names = set(
        arguments.only or (QUICK if arguments.quick else [r.name for r in RUNS])
    )
    runs = sorted((r for r in RUNS if r.name in names), key=lambda r: r.held_out)
    with tempfile.TemporaryDirectory() as temporary:
        logs = arguments.logs or Path(temporary) / "runs"
        good = train_all(runs, logs, arguments.jobs)
        warnings.simplefilter("ignore")
        found = [evaluate(run, logs) for run in runs]
        cost = cost_rows(runs, logs)
    if arguments.events:
        for each in found:
            for event in each.events[OWN]:
                print(f"{each.run.name} {event.step} {event.layer}: {event.message}")
    tables = tables_of(found)
    for title, head, rows in tables:
        show(title, rows, head)
    show(f"CPU time of one record of {LAYERS} layers", cost, ("", "median, ms", "most"))
    if arguments.markdown:
        parts = [f"{t}\n\n{markdown(head, rows)}" for t, head, rows in tables]
        arguments.markdown.write_text("\n\n".join(parts) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
