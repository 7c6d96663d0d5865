"""Some nine directions of each layer carry a network; its spectral graph shows them.

Networks without biases, 64-40-40-40-10 and 64-n-n-10, learn scikit-learn's digits. Which
left singular vectors of a layer does the next one read? The block of leading ones that
are joined more than by chance has as many rows and columns as the internal dimensions
d_out and d_in (Meller and Berkouk 2023, arXiv:2302.08183, of MNIST and FashionMNIST).
All of it is computed from the singular vectors that svdhooks recorded in training.

Means of five seeds; the paper's, read off its figures and counted from 1, in brackets:

    64-40-40-40-10, all pairs:   d_out and d_in 8.2 to 8.8 (9 to 10)
    64-n-n-10, n = 5, 10, 20, 50:   d_in of the 1st pair 2.2, 5.8, 8.6, 11.2
                                                        (3.0, 5.3, 8.3, 9.8)
    64-n-n-10, n = 5, 20, 40, 100:  d_out of the 2nd pair 2.6, 9.2, 9.6, 10.0
                                                         (2.4, 7.2, 8.6, 9.0)

From step 100 on the blocks are there, and grow from 7 to 8.5 while the accuracy goes from
0.77 to 0.97; before, there is none, and what is found as its size is anything. Narrow
networks have none either: for n = 5 and 10 the size is the n/2 that the definition gives
to layers joined one to one. Of edges above three sigma the deep network ends with 15, 16
and 10, where 2.2, 2.2 and 0.5 are expected by chance; the strongest weigh 0.7 to 0.8.

Test accuracy with a part of each layer (the paper: 1 % is lost with the block alone):

              all    block  outside  as many random neurons  directions
    40-40-40  0.968  0.949  0.140    0.111                   0.130
    10-10     0.955  0.524  0.114    0.157                   0.156
    20-20     0.971  0.958  0.082    0.190                   0.201
    40-40     0.969  0.971  0.101    0.159                   0.189
    100-100   0.974  0.971  0.097    0.116                   0.191

It holds from n = 20 on, where there is a block. In the deep network two points are lost,
one of them in the last layer, of whose ten neurons the block has eight or nine.

    python examples/spectral_graph_digits.py    # 100 s on one core

Needs scikit-learn, pandas and matplotlib.
"""

import argparse
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from parts.pruning import (
    ARMS,
    TRAIN_IMAGES,
    Factors,
    Images,
    block_sizes,
    chain,
    leading_only,
    prune,
    split_digits,
)
from rich.console import Console
from torch import nn
from torch.nn import functional

import svdhooks
from svdhooks.analysis import (
    plot_adjacency,
    plot_layer_graph,
    spectral_graph,
)

DEEP = (40, 40, 40)
"""Hidden widths of the network of the paper's figures 2 and 3."""
BATCH_SIZE = 64
LEARNING_RATE = 1e-3
PAPER = pd.DataFrame(
    {
        "paper 1st": [3.0, 5.3, 8.3, None, 9.8, None],
        "paper 2nd d_out": [2.4, None, 7.2, 8.6, None, 9.0],
    },
    index=[5, 10, 20, 40, 50, 100],
)
"""Internal dimension against width, read off figure 4 and counted from 1: of the first
pair, and d_out of the second."""


def make_model(hidden: Sequence[int], seed: int) -> nn.Sequential:
    """Linear layers without bias, as PyTorch initialises them, and ReLUs."""
    torch.manual_seed(seed)
    model = nn.Sequential()
    for number, (inputs, outputs) in enumerate(pairwise([64, *hidden, 10]), start=1):
        model.add_module(f"fc{number}", nn.Linear(inputs, outputs, bias=False))
        if number <= len(hidden):
            model.add_module(f"relu{number}", nn.ReLU())
    return model


def round_steps(last: int) -> list[int]:
    """0, 10, 20, 50, 100 and so on."""
    steps = [k * 10**p for p in range(1, len(str(last))) for k in (1, 2, 5)]
    return sorted({0, last, *(step for step in steps if step < last)})


def record(log_dir: Path, hidden: Sequence[int], *, steps: int, seed: int) -> nn.Module:
    """Train one network while svdhooks keeps its singular vectors."""
    model, (train, _) = make_model(hidden, seed), split_digits(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    generator = torch.Generator().manual_seed(seed)
    watching = svdhooks.watch(
        model,
        log_dir,
        schedule=svdhooks.at(*round_steps(steps)),
        probe=train.x[:BATCH_SIZE],
        # everything at every recorded step; the edges find out which layer feeds which
        quantities=[
            svdhooks.WeightVectors(k=None, schedule=None),
            svdhooks.SpectralEdges(k=None, schedule=None),
        ],
        max_overhead=None,
    )
    with watching as recorder:
        for _ in range(steps):
            batch = torch.randint(0, TRAIN_IMAGES, (BATCH_SIZE,), generator=generator)
            loss = functional.cross_entropy(model(train.x[batch]), train.y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.step()
    return model


def read_dimensions(log: svdhooks.RunLog, test: Images) -> list[dict[str, Any]]:
    """One line for each recorded step and pair."""
    lines = []
    for step in log.vectors(chain(log)[0])[0].tolist():
        right = Factors.of(log, step).accuracy(test)
        for pair in spectral_graph(log, step).pairs:
            d_out, d_in = pair.internal_dimensions
            lines.append({
                "step": step,
                "pair": f"{pair.source}->{pair.target}",
                "sigma_1": float(pair.source_sigma[0]),
                "d_out": d_out,
                "d_in": d_in,
                "edges": pair.significant,
                "by_chance": pair.expected_false,
                "top_edge": float(pair.adjacency.max()),
                "accuracy": right,
            })
    return lines


def read_pruned(log: svdhooks.RunLog, test: Images, seed: int) -> dict[str, Any]:
    """What the block is worth at the last step."""
    factors = Factors.of(log)
    sizes = block_sizes(spectral_graph(log), [len(eye) for eye in factors.eyes()])
    whole = {"kept": "-".join(map(str, sizes)), "whole": factors.accuracy(test)}
    return whole | prune(factors, sizes, test, seed)


def tell(console: Console, dimensions: pd.DataFrame, pruned: pd.DataFrame) -> None:
    """Means over the seeds."""
    deep = "-".join(map(str, DEEP))
    ends = dimensions[dimensions.step.isin([0, dimensions.step.max()])]
    means = ends.groupby(["hidden", "step", "pair"]).mean(numeric_only=True)
    console.print(f"\n64-{deep}-10, before and after training")
    if deep in means.index:
        console.print(means.loc[deep].drop(columns="seed").round(2).to_string())
    console.print("\nInternal dimensions of 64-n-n-10, and the paper's (other data)")
    console.print(of_widths(dimensions).join(PAPER, how="left").round(1).to_string())
    console.print("\nTest accuracy with a part of the neurons of every layer")
    means = pruned.groupby("hidden", sort=False).mean(numeric_only=True)
    console.print(means.drop(columns="seed").round(3).to_string())


def of_widths(dimensions: pd.DataFrame) -> pd.DataFrame:
    """Mean internal dimensions at the last step; a row for each width n of 64-n-n-10."""
    last = dimensions[dimensions.step == dimensions.step.max()]
    last = last[last.hidden.str.count("-") == 1]
    n = last.hidden.str.split("-").str[0].astype(int).rename("n")
    means = last.groupby([n, "pair"])[["d_out", "d_in"]].mean().unstack()
    named = {"fc1->fc2": "1st", "fc2->fc3": "2nd"}
    means.columns = [f"{named[pair]} {dim}" for dim, pair in means.columns]
    return means[sorted(means.columns, key=lambda name: (name[:3], name[-2:] == "in"))]


def draw(
    dimensions: pd.DataFrame, pruned: pd.DataFrame, leading: Sequence[float]
) -> Figure:
    """Dimensions against width and step; accuracy against the neurons that are left."""
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    deep, dims = "-".join(map(str, DEEP)), ["d_out", "d_in"]
    with mpl.rc_context(style):
        figure = Figure(figsize=(12.5, 3.9), layout="constrained")
        width, course, kept = figure.subplots(1, 3)
        found = of_widths(dimensions)
        looks = {"color": ["C0", "C0", "C1", "C1"], "style": ["o-", "s--"] * 2, "ms": 4}
        found.plot(ax=width, lw=1.3, **looks)
        width.plot(found.index, found.index / 2, ":", color="0.5", label="n/2")
        for name, colour in zip(PAPER, ("C0", "C1"), strict=True):
            width.plot(PAPER[name], "o", color=colour, mfc="none", ms=8, label=name)
        width.set(xlabel="n", ylabel="internal dimension", ylim=(0, 15))
        width.set_title("64-n-n-10 trained: wider layers, the same block", loc="left")
        curves = dimensions[dimensions.hidden == deep].groupby(["pair", "step"])[dims]
        for number, (pair, curve) in enumerate(curves.mean().groupby(level="pair")):
            steps = curve.index.get_level_values("step")
            course.plot(steps, curve.d_out, color=f"C{number}", label=pair)
            course.plot(steps, curve.d_in, "--", color=f"C{number}")
        course.set_xscale("symlog", linthresh=10)
        course.set(xlabel="optimiser step", ylabel="d_out (line), d_in (dashed)")
        course.set(xlim=(0, None), ylim=(0, None))
        course.set_title(f"64-{deep}-10 in training", loc="left")
        kept.plot(range(1, len(leading) + 1), leading, "k-", lw=1, label="leading k")
        part = pruned[pruned.hidden == deep]
        sizes = part.kept.map(lambda kept: np.mean([int(k) for k in kept.split("-")]))
        for arm in ARMS:
            kept.plot(sizes, part[arm], "o", ms=4, label=arm.replace("_", " "))
        kept.set(xlabel="neurons left in each layer", ylabel="test accuracy")
        kept.set(xlim=(0, None), ylim=(0, 1.02))
        kept.set_title(f"64-{deep}-10 pruned", loc="left")
        for axes in (width, course, kept):
            axes.legend(frameon=False, fontsize=7.5)
    return figure


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Spectral graphs of small networks.")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument(
        "--width", type=int, nargs="+", default=[5, 10, 20, 40, 50, 100]
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/spectral_graph_digits"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = read_arguments(arguments)
    torch.set_num_threads(1)  # more of them only wait for one another at this size
    console, start = Console(), time.perf_counter()
    lines, kept = [], []
    for hidden in (DEEP, *((width, width) for width in chosen.width)):
        for seed in range(chosen.seeds):
            who = {"hidden": "-".join(map(str, hidden)), "seed": seed}
            log_dir = chosen.out / who["hidden"] / f"seed-{seed}"
            with console.status(f"{log_dir}: {chosen.steps:,} steps"):
                record(log_dir, hidden, steps=chosen.steps, seed=seed)
                log, (_, test) = svdhooks.RunLog(log_dir), split_digits(seed)
                lines += [who | line for line in read_dimensions(log, test)]
                kept.append(who | read_pruned(log, test, seed))
    console.print(f"{len(kept)} networks in {time.perf_counter() - start:.0f} s")
    dimensions, pruned = pd.DataFrame(lines), pd.DataFrame(kept)
    dimensions.to_csv(chosen.out / "dimensions.csv", index=False)
    pruned.to_csv(chosen.out / "pruned.csv", index=False)
    tell(console, dimensions, pruned)
    log, (_, test) = svdhooks.RunLog(chosen.out / "40-40-40/seed-0"), split_digits(0)
    graph = spectral_graph(log)
    for name, figure in (
        ("dimensions", draw(dimensions, pruned, leading_only(Factors.of(log), test))),
        ("adjacency", plot_adjacency(graph.pairs[0])),
        ("layer_graph", plot_layer_graph(graph)),
    ):
        figure.savefig(chosen.out / f"{name}.png", dpi=120)
    console.print(f"Tables and figures: {chosen.out}")


if __name__ == "__main__":
    main()
