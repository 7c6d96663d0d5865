"""The pictures and the numbers of ``docs/reading.md``, from runs of ``benchmarks/alarms.py``.

``python benchmarks/alarms.py --logs runs/zoo`` trains the runs, and
``python examples/local_rank_falls.py`` those with local rank. Then

``python docs/reading_pictures.py [runs/zoo] [runs/local_rank_falls]``

draws ``docs/images/reading_*.png`` and reads anew every number of
``tests/data/reading.json``, which a test holds against the text.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt

import svdhooks
from svdhooks import analysis, linalg

IMAGES = Path("docs/images")
NUMBERS = Path("tests/data/reading.json")
# Okabe and Ito's: told apart by colour-blind eyes
GOOD, BAD, THIRD = "#0072B2", "#D55E00", "#009E73"
DPI = 110
SAMPLES = (16, 32, 64, 128, 256, 512, 1024)


class Runs:
    """The logs, by the name of their run.

    Args:
        logs: Of ``benchmarks/alarms.py``.
        local_rank: Of ``examples/local_rank_falls.py``.
    """

    def __init__(self, logs: Path, local_rank: Path) -> None:
        self._parents = logs, logs.with_name(f"{logs.name}-held-out"), local_rank

    def __getitem__(self, name: str) -> svdhooks.RunLog:
        """The log of a run."""
        folders = [parent / name for parent in self._parents]
        there = [folder for folder in folders if folder.exists()]
        if not there:
            raise FileNotFoundError(
                f"No run {name!r} in {folders}: train it, see above."
            )
        return svdhooks.RunLog(there[0])

    def curve(self, run: str, layer: str, measure: str) -> tuple[Any, Any]:
        """Steps and values: of a layer, or of the run if ``layer`` is empty."""
        log = self[run]
        if layer:
            return log.series(layer, measure)
        return log.run_series("loss") if measure == "loss" else log.scalars(measure)


def main(logs: str = "runs/zoo", local_rank: str = "runs/local_rank_falls") -> None:
    """Draw all pictures and read all numbers."""
    mpl.use("agg")
    plt.rcParams |= {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 9.5,
        "legend.frameon": False,
    }
    runs = Runs(Path(logs), Path(local_rank))
    by_samples = ranks_by_samples()
    draw_falls(runs)
    draw_plasticity(runs)
    draw_tokens(runs)
    draw_traps(runs, by_samples)
    read_numbers(runs, by_samples)
    spectra = analysis.plot_spectra(runs["simsiam_no_stop"], "projection", "output")
    save(spectra, "spectra")
    layers = analysis.plot_rank_map(
        runs["gpt_no_skips"], "tokens_effective_rank", layers="blocks.[0-5].[ud]*"
    )
    save(layers, "map")


def save(figure: Any, name: str) -> None:
    """Write one picture."""
    figure.savefig(IMAGES / f"reading_{name}.png", dpi=DPI)


def draw_falls(runs: Runs) -> None:
    """The same fall of ranks in a healthy run and in one that is lost."""
    figure, panels = plt.subplots(
        2, 3, figsize=(10.5, 4.6), layout="constrained", width_ratios=(1.5, 1, 1)
    )
    told = {
        "overtrained": "healthy",
        "absurd_decay": "lost from step 600 on",
    }
    shades = mpl.colormaps["viridis"](np.linspace(0.85, 0.1, 4))
    for row, (run, what) in zip(panels, told.items(), strict=True):
        for layer, shade in zip(("0", "2", "4", "6"), shades, strict=True):
            curve = runs.curve(run, layer, "output_effective_rank")
            row[0].plot(*curve, color=shade, label=f"layer {layer}")
        row[0].axhline(9, color="0.5", lw=0.8, ls="--")
        row[0].set(title=f"{run}, {what}", ylabel="output effective rank")
        row[0].set_ylim(0, 68)
        row[1].plot(*runs.curve(run, "", "loss"), color="0.35", lw=1)
        row[1].set(title="training loss", yscale="log", ylim=(3e-4, 9))
        row[2].plot(*runs.curve(run, "", "truth"), color="0.35", lw=1)
        row[2].set(title="accuracy on images kept apart", ylim=(0, 1.03))
    panels[0, 0].legend(loc="upper right", fontsize=8)
    panels[1, 0].text(1830, 10, "classes − 1", ha="right", color="0.35", fontsize=8)
    for panel in panels[1]:
        panel.set_xlabel("step")
    save(figure, "falls")


def draw_plasticity(runs: Runs) -> None:
    """Task after task: what weights show of the loss of plasticity, and what units do."""
    figure, (right, weight, entering, dead) = plt.subplots(
        1, 4, figsize=(11, 2.9), layout="constrained"
    )
    for run, colour in (("tasks_l2_init", GOOD), ("tasks_plain", BAD)):
        right.plot(*runs.curve(run, "", "truth"), color=colour, label=run)
        for panel, layer, measure in (
            (weight, "third", "weight_effective_rank"),
            (entering, "head", "input_effective_rank"),
            (dead, "head", "input_dead_fraction"),
        ):
            panel.plot(*runs.curve(run, layer, measure), color=colour)
    right.set(title="accuracy after a task", ylim=(0, 1))
    weight.set(title="effective rank, weight of third", ylim=(0, 128))
    entering.set(title="effective rank, what enters head", ylim=(0, 64))
    dead.set(title="dead units before head", ylim=(-0.02, 1.02))
    for panel in (right, weight, entering, dead):
        panel.set_xlabel("step")
        panel.xaxis.set_major_locator(mpl.ticker.MultipleLocator(2500))
    figure.legend(loc="outside lower center", ncols=2)
    save(figure, "plasticity")


def draw_tokens(runs: Runs) -> None:
    """What leaves the values of each block: rank in a sequence and over all tokens."""
    figure, (within, over, weight) = plt.subplots(
        1, 3, figsize=(10.5, 2.9), layout="constrained"
    )
    blocks = range(12)
    for run, colour in (("attention_skips", GOOD), ("attention_no_skips", BAD)):
        for panel, measure in (
            (within, "tokens_effective_rank"),
            (over, "output_effective_rank"),
            (weight, "weight_effective_rank"),
        ):
            layers = [f"blocks.{block}.value" for block in blocks]
            last = [runs.curve(run, layer, measure)[1][-1] for layer in layers]
            label = run if panel is within else None
            panel.plot(blocks, last, "o-", ms=3.5, color=colour, label=label)
    within.set(title="within a sequence (8 tokens)", ylim=(0, 8.3))
    within.axhline(1, color="0.5", lw=0.8, ls="--")
    within.set_ylabel("effective rank, last step")
    over.set(title="over the tokens of all sequences", ylim=(0, 33))
    weight.set(title="of the weight", ylim=(0, 33))
    for panel in (within, over, weight):
        panel.set_xlabel("block")
    figure.legend(loc="outside lower center", ncols=2)
    save(figure, "tokens")


def draw_traps(runs: Runs, by_samples: dict[str, float]) -> None:
    """Too few samples; and a rank that rises because only rounding is left."""
    figure, (few, noise, scale) = plt.subplots(
        1, 3, figsize=(10.5, 2.9), layout="constrained"
    )
    counts = [int(count) for count in by_samples]
    few.plot(counts, list(by_samples.values()), "o-", ms=3.5, color=GOOD)
    few.axvspan(counts[0], 256, color="0.92", lw=0)
    few.text(17, 3, "sample_limited", color="0.35", fontsize=8)
    few.set(title="one layer, one step, 128 units", xscale="log", xlabel="samples")
    few.set_xticks(counts, [str(count) for count in counts])
    few.minorticks_off()
    few.set_ylabel("effective rank")
    few.set_ylim(0, None)
    rank = runs.curve("viewer_no_skips", "blocks.7.up", "output_effective_rank")
    noise.plot(*rank, color=BAD)
    noise.set(title="blocks.7.up: the rank rises …", xlabel="step", ylim=(0, None))
    noise.set_ylabel("output effective rank")
    for measure, colour, name in (
        ("output_mean_norm", GOOD, "mean norm, squared"),
        ("output_total_variance", BAD, "total variance"),
    ):
        steps, values = runs.curve("viewer_no_skips", "blocks.7.up", measure)
        values = values**2 if measure == "output_mean_norm" else values
        scale.plot(steps, values, color=colour, label=name)
    scale.set(title="… but only rounding differs", xlabel="step", yscale="log")
    scale.legend(fontsize=8)
    save(figure, "traps")


def ranks_by_samples() -> dict[str, float]:
    """Train ``mlp_adam`` anew, and measure one layer on more and more images."""
    sys.path.insert(0, "benchmarks")
    from alarm_runs import classifiers, supervised

    torch.manual_seed(0)
    torch.set_num_threads(1)
    course = supervised.mlp_adam()
    for _ in course.losses:
        pass
    images = classifiers.digits().x
    with torch.no_grad():
        seen = course.model[:3](images).double()
    found = {}
    for count in SAMPLES:
        sample = seen[:count] - seen[:count].mean(0)
        found[str(count)] = float(linalg.effective_rank(linalg.singular_values(sample)))
    return found


def read_numbers(runs: Runs, by_samples: dict[str, float]) -> None:
    """Read anew the values of every entry of `NUMBERS`.

    An entry says where it stands: run, layer (empty: of the run), measure, and ``at``,
    a list of ``first``, ``last``, ``least``, ``most`` or steps.
    """
    told = json.loads(NUMBERS.read_text())
    for entry in told["numbers"]:
        steps, values = runs.curve(entry["run"], entry["layer"], entry["measure"])
        entry["values"] = [
            float(f"{pick(steps, values, at):.6g}") for at in entry["at"]
        ]
    told["by_samples"] = {n: round(rank, 4) for n, rank in by_samples.items()}
    NUMBERS.write_text(json.dumps(told, indent=1) + "\n")


def pick(steps: Any, values: Any, at: str | int) -> float:
    """One value of a curve."""
    named = {
        "first": lambda: values[0],
        "last": lambda: values[-1],
        "least": lambda: np.nanmin(values),
        "most": lambda: np.nanmax(values),
    }
    if isinstance(at, str):
        return float(named[at]())
    return float(values[np.searchsorted(steps, at)])


if __name__ == "__main__":
    main(*sys.argv[1:])
