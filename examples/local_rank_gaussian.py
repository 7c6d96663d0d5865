"""Deep networks on Gaussian data: local rank falls to what the target needs.

A network 100-200-200-200-200-10 with ReLUs predicts y from x, which are jointly Gaussian:
ten directions of x are correlated with y, from 0.95 down to 0.1, and ninety are not.
svdhooks records the local rank of every layer (Patel and Shwartz-Ziv 2024, "Learning to
Compress: Local Rank and Information Compression in Deep Neural Networks",
arXiv:2410.07687). It stays near that of random weights, then falls, the deepest layer
first, to the number of directions that the network still uses.

The network, its initialisation, the inputs N(0, I), the threshold 0.01 and the 128 samples
are those behind the published local ranks at initialisation, 100, 97.0, 94.3 and 90.7.
The script of that experiment is not public. The target, its noise, and the weight decay
are a reconstruction, chosen so that the fall takes minutes instead of 500,000 steps.

For such data the information bottleneck has a closed form (Chechik et al. 2005): the
best encoder at a price β of information uses the directions whose squared correlation
is above 1/β. With weight decay 1, 2, 4 and 8 the output ends with 9, 8, 7 and 3 of the
ten, and 99 % of its sensitivity lies along those that the best encoder of that rank
uses. The hidden layers keep one direction more. Unlike in the published runs the ranks
of the deeper layers dip once, in the first 100 steps, before they rise and fall.

    python examples/local_rank_gaussian.py    # 70 s on one core
    svdhooks summary runs/local_rank_gaussian/decay-1
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
from torch import Tensor, nn
from torch.nn import functional

import svdhooks
from svdhooks.linalg.information import GaussianBottleneck

WIDTHS = (100, 200, 200, 200, 200, 10)
LAYERS = ("layer1", "layer2", "layer3", "layer4", "output")
# of six runs, at initialisation; ± what another seed may read
PUBLISHED = ("100", "97.0 ± 1", "94.3 ± 3", "90.7 ± 3", "")
CORRELATIONS = torch.linspace(0.95, 0.1, 10)
BATCH_SIZE, LEARNING_RATE, SAMPLES = 64, 5e-4, 128


@dataclass(frozen=True)
class Source:
    """Jointly Gaussian x and y, each with unit variance.

    Along column i of ``directions``, ``(100, 10)`` and orthonormal, x has the correlation
    ``CORRELATIONS[i]`` with ``y[i]``.
    """

    directions: Tensor

    @classmethod
    def random(cls, seed: int) -> "Source":
        """Directions in general position."""
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(WIDTHS[0], WIDTHS[-1], generator=generator)
        return cls(torch.linalg.qr(normal).Q)

    def draw(self, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """So many samples of x and of y."""
        x = torch.randn(samples, WIDTHS[0], generator=generator)
        noise = torch.randn(samples, WIDTHS[-1], generator=generator)
        told = (x @ self.directions) * CORRELATIONS
        return x, told + (1 - CORRELATIONS.square()).sqrt() * noise

    def bottleneck(self) -> GaussianBottleneck:
        """The best encoders of x for y, in closed form."""
        cross = self.directions * CORRELATIONS
        both = torch.cat([cross, torch.eye(WIDTHS[-1])])
        x = torch.cat([torch.eye(WIDTHS[0]), cross.T])
        return GaussianBottleneck.of(torch.cat([x, both], dim=1), WIDTHS[0])


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
    """0, 10, 20, 30, 50, 70, 100, 200 and so on: local rank lives on log time."""
    steps = [k * 10**p for p in range(1, len(str(last))) for k in (1, 2, 3, 5, 7)]
    return sorted({0, last, *(step for step in steps if step < last)})


def train(
    model: nn.Module, source: Source, *, weight_decay: float, steps: int, seed: int
) -> Iterator[float]:
    """One optimiser step, on fresh samples, for each loss that is asked for."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim == 2]},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=LEARNING_RATE, weight_decay=weight_decay, fused=True
    )
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x, y = source.draw(BATCH_SIZE, generator)
        loss = functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.item()


def probe(seed: int) -> Tensor:
    """The samples at which the layers are measured; none of them is trained on."""
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randn(SAMPLES, WIDTHS[0], generator=generator)


def record(
    log_dir: Path, source: Source, *, weight_decay: float, steps: int, seed: int
) -> nn.Module:
    """Train one network while svdhooks watches it."""
    model = make_model(seed)
    watching = svdhooks.watch(
        model,
        log_dir,
        schedule=svdhooks.at(*round_steps(steps)),
        probe=probe(seed),
        quantities=[
            "weight_spectrum",
            # of all samples, as often as the rest
            svdhooks.JacobianSpectrum(max_samples=None, schedule=None),
            "ledger",
        ],
        # a minute of training is too short for a share of it: keep every step asked for
        max_overhead=None,
    )
    training = train(model, source, weight_decay=weight_decay, steps=steps, seed=seed)
    with watching as recorder:
        for _ in training:
            recorder.step()
    return model


@dataclass(frozen=True)
class Outcome:
    """A trained network beside the closed form.

    ``rank`` is the local rank of the output at the end, rounded; ``along`` the share of
    the squared Frobenius norm of its Jacobian in as many directions, those that the best
    encoder uses; ``betas`` the prices between which that encoder has this rank.
    """

    log: svdhooks.RunLog
    rank: int
    along: float
    betas: tuple[float, float]


def compare(
    model: nn.Module, log: svdhooks.RunLog, bottleneck: GaussianBottleneck, x: Tensor
) -> Outcome:
    rank = round(log.local_rank(LAYERS[-1]).mean[-1])
    used = torch.tensor(bottleneck.directions[:rank], dtype=torch.float32)
    jacobians = torch.func.vmap(torch.func.jacrev(model))(x).detach()
    along = (jacobians @ used.T).square().sum() / jacobians.square().sum()
    critical = [0.0, *bottleneck.critical_betas.tolist(), float("inf")]
    return Outcome(log, rank, along.item(), (critical[rank], critical[rank + 1]))


def new_table(title: str, *headings: str) -> Table:
    table = Table(
        title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    for heading in headings:
        table.add_column(heading, justify="right", vertical="bottom")
    return table


def tell_course(console: Console, name: str, log: svdhooks.RunLog) -> None:
    """One line per recorded step, with the published values below the first."""
    histories = [log.local_rank(layer) for layer in LAYERS]
    relative = log.local_rank(LAYERS[-2], relative=True)
    table = new_table(f"Local rank, {name}", "step", *LAYERS, f"{LAYERS[-2]}\nrelative")
    for row, step in enumerate(relative.steps):
        ranks = [f"{history.mean[row]:.1f}" for history in histories]
        table.add_row(f"{step:,}", *ranks, f"{relative.mean[row]:.1f}")
        if step == 0:
            table.add_row("published", *PUBLISHED, style="dim")
    console.print(table)
    console.print(
        f"Singular values of the Jacobian from x to the layer's output before its ReLU: "
        f"how many are above {histories[0].eps[0]:g}, and relative, above "
        f"{relative.eps[0]:g}·σ₁. Means over {relative.samples[0]} samples.\n"
    )


def tell_outcomes(console: Console, outcomes: dict[str, Outcome]) -> None:
    title = "At the end, beside the information bottleneck"
    beside = ("along best\ndirections", "same rank\nfor β from")
    table = new_table(title, "", *LAYERS, *beside)
    for name, outcome in outcomes.items():
        means = [outcome.log.local_rank(layer).mean for layer in LAYERS]
        table.add_row(
            name.removeprefix("weight "),
            *(f"{mean[-1]:.1f}" for mean in means),
            f"{outcome.along:.1%}",
            interval(*outcome.betas),
        )
    console.print(table)
    console.print(
        "Along best directions: share of the output's squared sensitivity along as many "
        "directions as its local rank, those that the best encoder of that rank uses. "
        "That encoder is the best one at these prices β of information.\n"
    )


def interval(low: float, high: float) -> str:
    return f"{low:.1f} to {'∞' if high == float('inf') else f'{high:.1f}'}"


def draw(outcomes: dict[str, Outcome], picture: Path) -> None:
    """Local ranks over the steps, a panel for each run."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    colours = [*mpl.colormaps["viridis"](np.linspace(0.85, 0, len(LAYERS) - 1)), "0.6"]
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        width = 1.6 + 2.6 * len(outcomes)
        figure = plt.figure(figsize=(width, 3.2), layout="constrained")
        axes = figure.subplots(1, len(outcomes), sharey=True, squeeze=False)
        for panel, (name, outcome) in zip(axes[0], outcomes.items(), strict=True):
            for layer, colour in zip(LAYERS, colours, strict=True):
                history = outcome.log.local_rank(layer)
                panel.plot(*history, ".-", color=colour, ms=3, lw=1.3, label=layer)
            panel.set_xscale("symlog", linthresh=10)
            panel.set(xlim=(0, None), ylim=(0, 103), xlabel="optimiser step")
            panel.set_title(name, loc="left", fontweight="bold")
            panel.grid(axis="y", lw=0.4, alpha=0.5)
        axes[0, 0].set_ylabel(f"local rank, {history.threshold}")
        named = axes[0, 0].get_legend_handles_labels()
        figure.legend(*named, loc="outside right center", frameon=False)
        figure.savefig(picture, dpi=120)
        plt.close(figure)


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Record networks, one for each weight decay."
    )
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--weight-decay", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/local_rank_gaussian"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = read_arguments(arguments)
    torch.set_num_threads(1)  # more of them only wait for one another at this size
    console = Console()
    source = Source.random(chosen.seed)
    length = {"steps": chosen.steps, "seed": chosen.seed}
    outcomes = {}
    for decay in chosen.weight_decay:
        name, log_dir = f"weight decay {decay:g}", chosen.out / f"decay-{decay:g}"
        start = time.perf_counter()
        with console.status(f"{name}: {chosen.steps:,} steps"):
            model = record(log_dir, source, weight_decay=decay, **length)
        seconds = time.perf_counter() - start
        console.print(f"{name}: {chosen.steps:,} steps in {seconds:.0f} s, {log_dir}")
        log, x = svdhooks.RunLog(log_dir), probe(chosen.seed)
        outcomes[name] = compare(model, log, source.bottleneck(), x)
    name, first = next(iter(outcomes.items()))
    tell_course(console, name, first.log)
    tell_outcomes(console, outcomes)
    if find_spec("matplotlib"):
        draw(outcomes, chosen.out / "local_rank.png")
        console.print(f"Figure: {chosen.out / 'local_rank.png'}")


if __name__ == "__main__":
    main()
