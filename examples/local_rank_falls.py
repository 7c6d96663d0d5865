"""Weight decay takes the rank out of a network, the deepest layer first.

Two networks learn scikit-learn's digits, 64-128-128-128-128-10 with ReLUs, and differ in
one number, the weight decay of AdamW. svdhooks records the local rank of every layer
(Patel and Shwartz-Ziv 2024, "Learning to Compress: Local Rank and Information
Compression in Deep Neural Networks", arXiv:2410.07687): how many directions of an image
can still move the layer's output.

With seed 0 the deepest hidden layer begins at 58 and rises to 64, all that there are.
With weight decay 0.5 it is at 13 after 5,000 steps and ends at 6; with 0.01 it stays at
64 (seeds 1 to 3: 6 to 7, and 57 to 63). Test accuracies end at 0.975 and 0.978. An
absolute threshold moves with scale: counted relative to the largest singular value,
which grows with the logits, the second network's falls too, from 52 to 26.

    python examples/local_rank_falls.py    # 80 s on one core
    svdhooks summary runs/local_rank_falls/decay-0.5

Needs scikit-learn; draws a figure if matplotlib is there.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter

import svdhooks

WIDTHS = (64, 128, 128, 128, 128, 10)
LAYERS = ("layer1", "layer2", "layer3", "layer4", "head")
DEEPEST = "layer4"
"""Of the hidden layers; the head's rank is at most 10 from the start."""
TRAIN_IMAGES = 1437
"""Of 1,797; the others are the test images."""
BATCH_SIZE = 128
LEARNING_RATE = 1e-3
SAMPLES = 128
"""Test images on which the layers are measured, as many as in the paper."""
IN_TABLE = "135"
"""First digits of recorded steps that get a line in the table."""


@dataclass(frozen=True)
class Digits:
    """Images, one per row, with pixels in [0, 1], and what they show."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def split_digits(seed: int) -> Digits:
    digits = load_digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(digits.data), generator=generator)
    train, test = order.split([TRAIN_IMAGES, len(order) - TRAIN_IMAGES])
    x = torch.tensor(digits.data, dtype=torch.float32) / 16
    y = torch.tensor(digits.target)
    return Digits(x[train], y[train], x[test], y[test])


def make_model(seed: int) -> nn.Sequential:
    """Layers and ReLUs by name, with He initialisation."""
    torch.manual_seed(seed)
    model = nn.Sequential()
    for name, (inputs, outputs) in zip(LAYERS, pairwise(WIDTHS), strict=True):
        model.add_module(name, nn.Linear(inputs, outputs))
        if name != LAYERS[-1]:
            model.add_module(f"relu{name[-1]}", nn.ReLU())
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return model


def round_steps(last: int) -> list[int]:
    """0, 10, 15, 20, 30, 50, 70, 100 and so on: local rank lives on log time."""
    steps = [k * 10**p for p in range(len(str(last))) for k in (10, 15, 20, 30, 50, 70)]
    return sorted({0, last, *(step for step in steps if step < last)})


def train(
    model: nn.Module, digits: Digits, *, weight_decay: float, steps: int, seed: int
) -> Iterator[float]:
    """One optimiser step for each loss that is asked for."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=weight_decay, fused=True
    )
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(0, TRAIN_IMAGES, (BATCH_SIZE,), generator=generator)
        logits = model(digits.train_x[batch])
        loss = functional.cross_entropy(logits, digits.train_y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


@torch.no_grad()
def accuracy(model: nn.Module, digits: Digits) -> float:
    right = model(digits.test_x).argmax(1) == digits.test_y
    return right.double().mean().item()


def record(log_dir: Path, *, weight_decay: float, steps: int, seed: int) -> nn.Module:
    """Train one network while svdhooks watches it."""
    digits, model = split_digits(seed), make_model(seed)
    recorded = round_steps(steps)
    watching = svdhooks.watch(
        model,
        log_dir,
        schedule=svdhooks.at(*recorded),
        probe=digits.test_x[:SAMPLES],
        quantities=[
            "weight_spectrum",
            "covariance",
            # of all samples, as often as the rest
            svdhooks.JacobianSpectrum(max_samples=None, schedule=None),
            "ledger",
        ],
        # a minute of training is too short for a share of it: keep every step asked for
        max_overhead=None,
    )
    training = train(model, digits, weight_decay=weight_decay, steps=steps, seed=seed)
    with watching as recorder, SummaryWriter(log_dir) as scalars:
        scalars.add_scalar("test_accuracy", accuracy(model, digits), 0)
        for step, loss in enumerate(training, start=1):
            recorder.step()
            if step in recorded:
                scalars.add_scalar("train_loss", loss, step)
                scalars.add_scalar("test_accuracy", accuracy(model, digits), step)
    return model


def tell_ranks(console: Console, name: str, log: svdhooks.RunLog) -> None:
    """One line per recorded step."""
    ranks = [log.local_rank(layer) for layer in LAYERS]
    relative = log.local_rank(DEEPEST, relative=True)
    loss = dict(zip(*log.scalars("train_loss"), strict=True))
    right = dict(zip(*log.scalars("test_accuracy"), strict=True))
    table = Table(
        title=f"Local rank, {name}",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    beside = (f"{DEEPEST}\nrelative", "loss of\nbatch", "test\naccuracy")
    for heading in ("step", *LAYERS, *beside):
        table.add_column(heading, justify="right", vertical="bottom")
    for row, step in enumerate(relative.steps):
        if step != relative.steps[-1] and str(step).rstrip("0") not in IN_TABLE:
            continue
        table.add_row(
            f"{step:,}",
            *(f"{history.mean[row]:.1f}" for history in ranks),
            f"{relative.mean[row]:.1f}",
            f"{loss[step]:.2g}" if step in loss else "",
            f"{right[step]:.3f}",
        )
    console.print(table)
    console.print(
        "Singular values of the Jacobian from the image to the layer's output before its "
        f"ReLU: how many are above {ranks[0].eps[0]:g}, and relative, above "
        f"{relative.eps[0]:g}·σ₁. Means over {relative.samples[0]} test images.\n"
    )


def tell_ledger(console: Console, logs: dict[str, svdhooks.RunLog]) -> None:
    """Where rank is lost, at the last step: in the weights, or in closed units?"""
    table = Table(
        title="What each layer throws away, at the end",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("", no_wrap=True)
    table.add_column("layer", vertical="bottom")
    first = ("local\nrank", "rank of\nweight", "input\nnot read")
    for heading in (*first, "lost to\nReLU", "negative\noutputs", "dead\nunits"):
        table.add_column(heading, justify="right")
    for name, log in logs.items():
        for layer in LAYERS:
            ledger = log.ledger(layer)
            shares = [
                "nonlinearity_removed_share",
                "negative_fraction",
                "dead_fraction",
            ]
            told = [f"{ledger[share][-1]:.0%}" for share in shares]
            table.add_row(
                name.removeprefix("weight ") if layer == LAYERS[0] else "",
                layer,
                f"{log.local_rank(layer).mean[-1]:.1f}",
                f"{log.series(layer, 'jacobian_weight_rank')[1][-1]:.0f}",
                f"{ledger.input_null_share[-1]:.0%}",
                *(told if layer != LAYERS[-1] else "–––"),  # no ReLU follows the last
                end_section=layer == LAYERS[-1],
            )
    console.print(table)
    console.print(
        "Input not read: share of its variance along singular vectors of the weight with "
        "σ ≤ 0.01·σ₁. Lost to ReLU: share of the output's variance that does not reach "
        "the next layer. Dead: negative for every image.\n"
    )


def tell_end(console: Console, name: str, log: svdhooks.RunLog) -> None:
    """The run in one line."""
    (steps, mean), (_, right) = log.local_rank(DEEPEST), log.scalars("test_accuracy")
    top = mean.argmax()
    console.print(
        f"[bold]{name}[/]: {DEEPEST} begins at {mean[0]:.1f}, is at most {mean[top]:.1f} "
        f"(step {steps[top]:,}) and ends at {mean[-1]:.1f} (step {steps[-1]:,}); test "
        f"accuracy {right[-1]:.3f}"
    )


def draw(logs: dict[str, svdhooks.RunLog], picture: Path) -> None:
    """Absolute local ranks above, relative ones below; a column for each run."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    colours = [*mpl.colormaps["viridis"](np.linspace(0.85, 0, len(LAYERS) - 1)), "0.6"]
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        figure = plt.figure(figsize=(1 + 4 * len(logs), 5.4), layout="constrained")
        axes = figure.subplots(2, len(logs), sharex=True, sharey=True, squeeze=False)
        for column, (name, log) in enumerate(logs.items()):
            for row, relative in enumerate((False, True)):
                panel = axes[row, column]
                for layer, colour in zip(LAYERS, colours, strict=True):
                    history = log.local_rank(layer, relative=relative)
                    panel.plot(*history, ".-", color=colour, ms=3, lw=1.3, label=layer)
                panel.set_xscale("symlog", linthresh=10)
                panel.set(xlim=(0, None), ylim=(0, WIDTHS[0] + 2))
                panel.grid(axis="y", lw=0.4, alpha=0.5)
                axes[row, 0].set_ylabel(f"local rank, {history.threshold}")
            right = log.scalars("test_accuracy")[1][-1]
            axes[0, column].set_title(f"{name}: test accuracy {right:.3f}", loc="left")
            axes[1, column].set_xlabel("optimiser step")
        named = axes[0, 0].get_legend_handles_labels()
        figure.legend(*named, loc="outside right center", frameon=False)
        figure.savefig(picture, dpi=120)
        plt.close(figure)


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Record networks, one for each weight decay."
    )
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--weight-decay", type=float, nargs="+", default=[0.5, 0.01])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/local_rank_falls"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = read_arguments(arguments)
    torch.set_num_threads(1)  # more of them only wait for one another at this size
    console = Console()
    logs = {}
    for decay in chosen.weight_decay:
        name, log_dir = f"weight decay {decay:g}", chosen.out / f"decay-{decay:g}"
        start = time.perf_counter()
        with console.status(f"{name}: {chosen.steps:,} steps"):
            record(log_dir, weight_decay=decay, steps=chosen.steps, seed=chosen.seed)
        seconds = time.perf_counter() - start
        console.print(f"{name}: {chosen.steps:,} steps in {seconds:.0f} s, {log_dir}")
        logs[name] = svdhooks.RunLog(log_dir)
    for name, log in logs.items():
        tell_ranks(console, name, log)
    tell_ledger(console, logs)
    for name, log in logs.items():
        tell_end(console, name, log)
    if find_spec("matplotlib"):
        draw(logs, chosen.out / "local_rank.png")
        console.print(f"Figure: {chosen.out / 'local_rank.png'}")


if __name__ == "__main__":
    main()
