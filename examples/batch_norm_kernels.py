"""The near-kernels of networks with batch norm are channels that decay has silenced.

Of layers 2 and 3 of vgg19_bn the kernel matrix |coVᵀ U| is block diagonal, with blocks of
59, 9 and 60 of 128, of which the last two have negligible singular values; networks
without batch norm have none of it (Meller and Berkouk 2023, arXiv:2302.08183). Here small
networks like a VGG, of 32, 32, 64 and 64 channels, learn scikit-learn's digits in 4,000
steps of AdamW, with a learning rate of 0.003 and a weight decay of 1. Of the 64 channels
between the last two convolutions (the 32 before them in brackets):

                         batch norm    its parameters not decayed    no batch norm
    test accuracy        0.997         0.997                         0.972
    silent               24 (13)       0 (0)                         2 (0)
    σ < 0.01 σ₁ of U     15 (10)       0 (0)                         12 (4)
    σ < 0.01 σ₁ of coV   18 (10)       0 (0)                         18 (4)
    leak                 0.0005        none                          0.05 (0.01)
    purity of rows       0.9996        none                          0.91 (0.90)
    U beyond in silent   1.00          none                          0.17 (0.00)

Silent: no training image gets through the ReLU. Leak: share of the squares outside the two
blocks cut at 0.01 σ₁, relative to chance; it is 0.8 to 1.2 with the channels shuffled. All
bases are found after a random rotation of the channels. With batch norm there are blocks:
of the live channels, and of the silent ones in the order in which they fell silent.

Not as in the paper, the network without batch norm has near-kernels, too, where the
learning rate and the decay are the same: a band without blocks, and its directions are no
channels. What batch norm adds is the blocks.

Why: decay of its scale silences a channel; then no gradient reaches it, nor what reads it,
and decay shrinks both kernels by (1 − lr · decay) a step: the last 1,000 steps leave
0.0496 of the norms of the silent channels, and that law says 0.0496. Both decays are
needed: with that of the norms alone 9 channels fall silent and nothing is negligible, with
that of the kernels alone none does. Silence of another cause does the same: without batch
norm a learning rate of 0.02 kills 44 of 64 ReLUs of the network 8-64-16, and 53 directions
become negligible; so it is silence that matters, and batch norm only its usual cause. To
reach 0.01 takes 4.6 / (lr · decay) steps after it (a tenth with momentum 0.9), which is
why short runs and weak decays show nothing. With seed 1 of the first column 24 channels
fall silent, too, 17 directions are negligible in U and coV, and the leak is 0.00005;
without batch norm 2, 14 and 19, and 0.14.

Tried, one seed each: negligible directions of U and of coV, of 64, at the same place.

                                          batch norm   none
    AdamW 0.003, decay 1                  15, 18       12, 18 (a band)
    the same, of the norms alone           0, 0
    the same, without decay                0, 0
    Adam 0.003, decay 5e-4, 3,000 steps   20, 25        1, 2
    the same, 1,000 steps                  0, 0
    SGD 0.1, decay 5e-3, 3,000            17, 20       25, 24 (a band: leak 0.07)
    the same, cosine, 4,000                6, 7        33, 32 (a band: leak 0.07)
    the same, learning rate 0.02                        0, 0
    SGD, decay of the norms alone          0, 0
    SGD, decay of the kernels alone        0, 0
    SGD, decay 1e-3                        0, 0
    SGD, noisy gratings                   11, 11        0, 0 (learning rate 0.02)
    gratings, decay 1e-3                   0, 0
    8-64-16, AdamW 0.02, decay 1, 800     23, 24       53, 52 (44 ReLUs dead)
    the same, of the kernels alone         2, 2

    python examples/batch_norm_kernels.py    # 2 minutes on one core
    python examples/batch_norm_kernels.py --search    # all that was tried: search.csv

Needs scikit-learn, pandas and matplotlib.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from parts.kernel_blocks import NEGLIGIBLE, Joint, shuffled
from parts.small_vgg import (
    ARMS,
    SEARCH,
    Images,
    Setting,
    accuracy,
    load_images,
    make_model,
    silent_channels,
    train,
)
from rich.console import Console
from torch import nn

import svdhooks
from svdhooks.analysis import layer_snapshot


def measure(model: nn.Sequential, images: Images, setting: Setting) -> list[dict]:
    """One line for each pair of convolutions whose first can have full rank."""
    silent, lines = silent_channels(model, images), []
    for first, second in pairwise(setting.convolutions):
        earlier, later = (model.get_submodule(n).weight for n in (first, second))
        if len(earlier) > earlier[0].numel():
            continue
        joint = Joint.of(earlier, later)
        read, written = joint.cut
        lines.append({
            "pair": f"{first}->{second}",
            "channels": len(earlier),
            "silent": int(silent[first].sum()),
            "not_written": len(earlier) - written,
            "not_read": len(earlier) - read,
            "smallest_written": float(joint.written[-1] / joint.written[0]),
            "smallest_read": float(joint.read[-1] / joint.read[0]),
            "leak": joint.leak,
            "leak_shuffled": Joint.of(earlier, shuffled(later)).leak,
            "purity": joint.purity,
            "kernel_in_silent": joint.silent_share(silent[first]),
        })
    return lines


def run(setting: Setting, log_dir: Path) -> tuple[nn.Sequential, list[dict[str, Any]]]:
    """Train one network while svdhooks keeps the singular vectors of its kernels.

    Args:
        setting: How.
        log_dir: Where the log goes.

    Returns:
        The network, and a line for each pair; of one that diverged a line without pair.
    """
    model, (images, test) = make_model(setting), load_images(setting)
    watching = svdhooks.watch(
        model,
        log_dir,
        schedule=svdhooks.every(max(setting.steps // 20, 1)),
        layers=nn.Conv2d,
        quantities=[svdhooks.WeightVectors(k=None, schedule=None)],
        max_overhead=None,
    )
    common = asdict(setting) | {"widths": "-".join(map(str, setting.widths))}
    with watching as recorder:
        for loss in train(model, images, setting):
            if not np.isfinite(loss):
                return model, [common]
            recorder.step()
    common["test_accuracy"] = accuracy(model, test)
    return model, [common | line for line in measure(model, images, setting)]


def search(out: Path, console: Console) -> None:
    """Train with every setting of the search; the table grows with each of them."""
    lines = []
    for number, setting in enumerate(SEARCH):
        start = time.perf_counter()
        lines += run(setting, out / f"search-{number}")[1]
        pd.DataFrame(lines).to_csv(out / "search.csv", index=False)
        console.print(f"{setting}: {time.perf_counter() - start:.0f} s")


def lengths(log: svdhooks.RunLog, layer: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Recorded steps ``(T,)``, and the norm of every channel's kernel, ``(T, c)``."""
    steps = log.vectors(layer)[0]
    found = [layer_snapshot(log, layer, int(step)) for step in steps]
    return steps, np.stack([np.linalg.norm(f.U * f.sigma, axis=1) for f in found])


def shrinkage(
    course: tuple[NDArray[Any], NDArray[Any]], silent: NDArray[Any], setting: Setting
) -> tuple[float, float]:
    """What the last quarter of the steps left of silent channels, and decay alone.

    Args:
        course: Steps and norms, as from `lengths`.
        silent: Which channels, ``(c,)``.
        setting: With a decoupled decay.

    Returns:
        The median over the channels (NaN without one), and ``(1 − lr · decay)^steps``.
    """
    steps, norms = course
    row = int(np.searchsorted(steps, 0.75 * steps[-1]))
    passed = int(steps[-1] - steps[row])
    alone = (1 - setting.lr * setting.weight_decay) ** passed
    if not silent.any():
        return float("nan"), alone
    return float(np.median(norms[-1, silent] / norms[row, silent])), alone


def tell(console: Console, lines: pd.DataFrame) -> None:
    """One line for each arm and pair."""
    columns = ["test_accuracy", "silent", "not_written", "not_read", "leak"]
    columns += ["leak_shuffled", "purity", "kernel_in_silent", "shrunk", "by_decay"]
    for arm, part in lines.groupby("arm", sort=False):
        console.print(f"\n{arm}")
        shown = part.set_index("pair")[columns].round(4)
        console.print(shown.T.to_string(na_rep="–"))


def draw(arms: dict[str, tuple[Setting, nn.Sequential, svdhooks.RunLog]]) -> Figure:
    """A row for each arm: kernel matrix, singular values, norms of the channels."""
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure = Figure(figsize=(11, 3.3 * len(arms)), layout="constrained")
        rows = figure.subplots(len(arms), 3, squeeze=False)
        for row, (arm, (setting, model, log)) in zip(rows, arms.items(), strict=True):
            first, second = setting.convolutions[-2:]
            weights = (model.get_submodule(name).weight for name in (first, second))
            draw_joint(row[:2], Joint.of(*weights), (first, second))
            silent = silent_channels(model, load_images(setting)[0])[first]
            draw_lengths(row[2], lengths(log, first), silent, setting)
            row[0].set_title(f"{arm}\n|coVᵀ U|, {first} to {second}", loc="left")
            row[2].set_title(f"Norm of each channel of {first}", loc="left")
    return figure


def draw_joint(axes: Sequence[Any], joint: Joint, names: tuple[str, str]) -> None:
    image = axes[0].imshow(joint.kernel, cmap="viridis", vmin=0, vmax=0.6)
    axes[0].figure.colorbar(image, ax=axes[0], shrink=0.8)
    rows, columns = joint.cut
    if len(joint.kernel) not in {rows, columns}:
        axes[0].axhline(rows - 0.5, color="w", lw=0.8, ls="--")
        axes[0].axvline(columns - 0.5, color="w", lw=0.8, ls="--")
    axes[0].set(xlabel=f"U of {names[0]}", ylabel=f"coV of {names[1]}")
    axes[1].semilogy(joint.written / joint.written[0], label=f"{names[0]} (U)")
    axes[1].semilogy(joint.read / joint.read[0], "--", label=f"{names[1]} (coV)")
    axes[1].axhline(NEGLIGIBLE, color="0.6", lw=0.8, ls=":")
    axes[1].set(xlabel="index", ylabel="σ / σ₁", ylim=(1e-6, 1.5))
    axes[1].legend(frameon=False, fontsize=8)


def draw_lengths(
    axes: Any,
    course: tuple[NDArray[Any], NDArray[Any]],
    silent: NDArray[Any],
    setting: Setting,
) -> None:
    steps, norms = course
    for which, colour, label in ((~silent, "C0", "heard"), (silent, "C3", "silent")):
        if which.any():
            drawn = axes.semilogy(steps, norms[:, which], color=colour, lw=0.6)
            drawn[0].set_label(f"{label} at the end ({which.sum()})")
    alone = (1 - setting.lr * setting.weight_decay) ** steps
    axes.semilogy(steps, norms[0].mean() * alone, "k:", label="decay alone")
    axes.set(xlabel="optimiser step", ylim=(1e-6, 10))
    axes.legend(frameon=False, fontsize=8)


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Near-kernels and batch norm.")
    parser.add_argument("--steps", type=int, default=Setting.steps)
    parser.add_argument("--search", action="store_true", help="try all of SEARCH")
    parser.add_argument("--out", type=Path, default=Path("runs/batch_norm_kernels"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = read_arguments(arguments)
    torch.set_num_threads(1)  # more of them only wait for one another at this size
    console, lines, shown = Console(), [], {}
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.search:
        search(chosen.out, console)
        return
    for arm, setting in ARMS.items():
        start, log_dir = (
            time.perf_counter(),
            chosen.out / arm.replace(",", "").replace(" ", "-"),
        )
        setting = replace(setting, steps=chosen.steps)
        model, found = run(setting, log_dir)
        log, seconds = svdhooks.RunLog(log_dir), time.perf_counter() - start
        silent = silent_channels(model, load_images(setting)[0])
        for line in found:
            first = line["pair"].split("->")[0]
            shrunk = shrinkage(lengths(log, first), silent[first], setting)
            line |= dict(zip(("shrunk", "by_decay"), shrunk, strict=True))
        console.print(f"{arm}: {setting.steps:,} steps in {seconds:.0f} s")
        lines += [{"arm": arm} | line for line in found]
        shown[arm] = setting, model, log
    table = pd.DataFrame(lines)
    table.to_csv(chosen.out / "near_kernels.csv", index=False)
    tell(console, table)
    draw(shown).savefig(chosen.out / "near_kernels.png", dpi=120)
    console.print(f"Table and figure: {chosen.out}")


if __name__ == "__main__":
    main()
