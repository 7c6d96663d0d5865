"""A band-pass network: its singular vectors are the pass band.

A network reads white noise of 256 samples and says the same noise, filtered to the
frequencies from 3 to 12 periods. It is the toy of Sule, Spencer and Czaja
(arXiv:2301.07820; 1,024 samples and 10 to 50 Hz in their code), because its answer is
known: the filter is circulant, so its singular values are ``|H(f)|``, those of an interior
frequency twice, and its singular vectors span the Fourier modes of the pass band, here
20. A linear layer solved by least squares must agree with that to rounding. A network
of two layers, ReLU between them and tanh behind, need not: what it does is read from
its log, together with the descrambled weights of both layers.

The solved layer has 20 singular values of 1.000 and no others, and its vectors are
2e-6° off the pass band. In the network the 20 leading vectors of layer1, on the side of
the input, and of layer2, on that of the output, share 7 % and 8 % with the pass band at
the start, as by chance, 99.7 % and 99.5 % after 100 steps, and end 1.9° and 0.6° off it.
The singular values end with a gap, 1.37 to 0.35 and 1.40 to 0.17; within the band they
are not equal, 1.56 to 1.37, and the vectors mix its frequencies. New signals are
filtered with a squared error of 0.5 %. The raw weights look like noise; descrambled they
are smooth along both sides.

    python examples/band_pass.py    # 90 s on one core
    svdhooks summary runs/band_pass/trained

The paper states no numbers for it. Layers without bias, 10,000 samples, Adam, 100 epochs
and batches of 512 are those of its code; the learning rate is PyTorch's default.
"""

import argparse
import csv
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

import svdhooks
from svdhooks import analysis, linalg

LAYERS, COLOURS = ("layer1", "layer2"), ("#0072B2", "#D55E00")
BATCH_SIZE, LEARNING_RATE = 512, 1e-3
RECORDED = (0, 10, 30, 100, 300, 1000, 3000, 10_000)


@dataclass(frozen=True)
class Band:
    """An ideal band-pass filter of periodic signals.

    ``low`` and ``high`` are the first and the last frequency that pass, in periods over
    the ``n`` of a signal; both lie between 0 and n/2.
    """

    n: int
    low: int
    high: int

    @property
    def modes(self) -> Tensor:
        """The cosine and sine of every frequency that passes, as orthonormal columns."""
        k = torch.arange(self.low, self.high + 1, dtype=torch.float64)
        phase = torch.arange(self.n)[:, None] * k * (2 * torch.pi / self.n)
        waves = torch.stack([phase.cos(), phase.sin()], dim=2).flatten(1)
        return waves * (2 / self.n) ** 0.5

    @property
    def response(self) -> Tensor:
        """|H(f)| at 0, …, n/2."""
        frequencies = torch.arange(self.n // 2 + 1)
        return ((frequencies >= self.low) & (frequencies <= self.high)).double()

    def __call__(self, x: Tensor) -> Tensor:
        """The filtered signals, one per row."""
        return torch.fft.irfft(torch.fft.rfft(x) * self.response.to(x.dtype), self.n)

    def draw(self, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """White noise, and the same filtered."""
        x = torch.randn(samples, self.n, generator=generator)
        return x, self(x)


def solve(band: Band, x: Tensor) -> nn.Sequential:
    """The linear layer that filters these signals, by least squares."""
    solution = torch.linalg.lstsq(x.double(), band(x.double())).solution
    linear = nn.Linear(band.n, band.n, bias=False, dtype=torch.float64)
    linear.weight.data = solution.T.contiguous()
    return nn.Sequential(OrderedDict(linear=linear))


def make_model(n: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    first, second = (nn.Linear(n, n, bias=False) for _ in LAYERS)
    parts = OrderedDict(layer1=first, relu=nn.ReLU(), layer2=second, tanh=nn.Tanh())
    return nn.Sequential(parts)


def watch(
    model: nn.Module, log_dir: Path, probe: Tensor, steps: Sequence[int]
) -> svdhooks.Recorder:
    """Record whole weights and the moments of what passes them."""
    whole = svdhooks.WeightVectors(k=None, schedule=None)
    moments = svdhooks.PointMoments(schedule=None)
    return svdhooks.watch(
        model,
        log_dir,
        schedule=svdhooks.at(*steps),
        probe=probe,
        quantities=["weight_spectrum", whole, moments],
        # a minute of training is too short for a share of it: keep every step asked for
        max_overhead=None,
    )


def record(out: Path, band: Band, *, samples: int, epochs: int, seed: int) -> float:
    """Solve the linear layer and train the network, each with a log of its own.

    Returns:
        The squared error of the network on new signals, relative to that of saying 0.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = band.draw(samples, generator)
    probe, aim = band.draw(4 * band.n, generator)
    with watch(solve(band, x), out / "exact", probe.double(), [0]):
        pass
    model = make_model(band.n, seed)
    last = epochs * -(-samples // BATCH_SIZE)
    steps = [*(step for step in RECORDED if step < last), last]
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    with watch(model, out / "trained", probe, steps) as recorder:
        for _ in range(epochs):
            order = torch.randperm(samples, generator=generator)
            for chosen in order.split(BATCH_SIZE):
                loss = functional.mse_loss(model(x[chosen]), y[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                recorder.step()
    with torch.no_grad():
        return ((model(probe) - aim).square().sum() / aim.square().sum()).item()


@dataclass(frozen=True)
class Reading:
    """Singular values and vectors of one layer at one step, beside the pass band.

    Of m modes in the pass band ``inside`` is the smallest of the leading m singular values,
    ``outside`` the largest of the others; ``rank`` counts those above half of the first.
    ``overlap`` is the mean squared cosine of the m leading vectors on the side of the
    signals with the pass band, whose chance is m/n; ``angle`` their largest principal
    angle, in degrees.
    """

    layer: str
    step: int
    first: float
    inside: float
    outside: float
    rank: int
    overlap: float
    angle: float


def read(log: svdhooks.RunLog, layer: str, band: Band, step: int) -> Reading:
    """Compare the side of a layer that is a signal: the input, or the last one's output."""
    snapshot = analysis.layer_snapshot(log, layer, step)
    vectors = snapshot.U if layer == LAYERS[-1] else snapshot.Vh.T
    modes, sigma = band.modes, snapshot.sigma
    m = modes.shape[1]
    leading = torch.from_numpy(vectors[:, :m].astype(np.float64))
    return Reading(
        layer,
        step,
        float(sigma[0]),
        float(sigma[m - 1]),
        # triplets of the value 0 are not recorded
        float(sigma[m]) if len(sigma) > m else 0.0,
        int((sigma > sigma[0] / 2).sum()),
        linalg.subspace_overlap(leading, modes),
        float(linalg.principal_angles(leading, modes).max().rad2deg()),
    )


def read_all(out: Path, band: Band) -> list[Reading]:
    """The solved layer, then both trained layers at every step of their log."""
    trained = svdhooks.RunLog(out / "trained")
    steps = trained.vectors(LAYERS[0])[0].tolist()
    return [
        read(svdhooks.RunLog(out / "exact"), "linear", band, 0),
        *(read(trained, layer, band, step) for layer in LAYERS for step in steps),
    ]


def tell(console: Console, readings: Sequence[Reading], band: Band) -> None:
    m = band.modes.shape[1]
    title = f"The leading {m} singular vectors, and the pass band of {m} modes"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    values = ("σ₁", f"σ{m}", f"σ{m + 1}", "σ > σ₁/2")
    for heading in ("layer", "step", *values, "overlap", "angle, °"):
        table.add_column(heading, justify="right")
    for each in readings:
        sigmas = [f"{v:.3f}" for v in (each.first, each.inside, each.outside)]
        found = (f"{each.rank}", f"{each.overlap:.4f}", f"{each.angle:.3g}")
        table.add_row(each.layer, f"{each.step:,}", *sigmas, *found)
    console.print(table)
    console.print(f"Chance: {m / band.n:.3f}. Of layer2 its output side.\n")


def draw(readings: Sequence[Reading], out: Path, band: Band) -> None:
    """All of it, and both layers with the outputs and the inputs between descrambled."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    values, vectors, course = figure.subplots(1, 3, width_ratios=(1, 1.15, 1))
    draw_values(values, out, band)
    figure.colorbar(draw_vectors(vectors, out, band), ax=vectors, label="|DFT| / √n")
    for layer, colour in zip(LAYERS, COLOURS, strict=True):
        own = [(each.step, each.overlap) for each in readings if each.layer == layer]
        course.plot(*zip(*own, strict=True), ".-", color=colour, label=layer)
    course.axhline(
        len(band.modes.T) / band.n, color="black", lw=1, ls="--", label="chance"
    )
    course.set_xscale("symlog", linthresh=10)
    course.set(xlim=(0, None), ylim=(0, 1.03), xlabel="optimiser step")
    course.set_title("overlap with the pass band", loc="left", fontsize=10)
    for panel in (values, course):
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8)
    figure.savefig(out / "band_pass.png", dpi=110)
    for layer, side in zip(LAYERS, ("out", "in"), strict=True):
        found = analysis.descrambled(svdhooks.RunLog(out / "trained"), layer, side=side)
        figure = analysis.plot_descrambled(found)
        figure.savefig(out / f"band_pass_descrambled_{layer}.png", dpi=110)


def draw_values(axes: Any, out: Path, band: Band) -> None:
    """The singular values of the solved layer, and of both others before and after."""
    exact, trained = (svdhooks.RunLog(out / name) for name in ("exact", "trained"))
    m, drawn = band.modes.shape[1], [("solved", exact, "linear", 0, "black", "-")]
    for layer, colour in zip(LAYERS, COLOURS, strict=True):
        drawn.append((f"{layer}, start", trained, layer, 0, colour, ":"))
        drawn.append((f"{layer}, end", trained, layer, None, colour, "-"))
    for name, log, layer, step, colour, line in drawn:
        sigma = analysis.layer_snapshot(log, layer, step).sigma[: 3 * m]
        axes.plot(np.arange(1, len(sigma) + 1), sigma, line, color=colour, label=name)
    axes.axvline(m + 0.5, color="0.6", lw=1, ls="--")
    axes.set(ylim=(0, None), xlabel="index")
    axes.set_title("singular values", loc="left", fontsize=10)


def draw_vectors(axes: Any, out: Path, band: Band) -> Any:
    """Spectra of twice as many right singular vectors of layer1 as the band has modes."""
    m, log = band.modes.shape[1], svdhooks.RunLog(out / "trained")
    leading = analysis.layer_snapshot(log, LAYERS[0]).Vh[: 2 * m]
    modulus = np.abs(np.fft.rfft(leading, axis=1, norm="ortho"))[:, : 3 * band.high]
    image = axes.imshow(modulus, aspect="auto", interpolation="nearest")
    for edge in (band.low - 0.5, band.high + 0.5):
        axes.axvline(edge, color="white", lw=1, ls="--")
    axes.set(xlabel="frequency, periods", ylabel="right singular vector")
    axes.set_title("|DFT| of the vectors of layer1, end", loc="left", fontsize=10)
    return image


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Record two band-pass filters.")
    parser.add_argument("--n", type=int, default=256, help="of a signal")
    parser.add_argument("--band", type=int, nargs=2, default=[3, 12])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/band_pass"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = read_arguments(arguments)
    torch.set_num_threads(1)  # more of them only wait for one another at this size
    console, band = Console(), Band(chosen.n, *chosen.band)
    size = {"samples": chosen.samples, "epochs": chosen.epochs, "seed": chosen.seed}
    with console.status("solving and training"):
        error = record(chosen.out, band, **size)
    readings = read_all(chosen.out, band)
    tell(console, readings, band)
    console.print(f"Squared error of the network on new signals: {error:.2%}")
    with (chosen.out / "band_pass.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(readings[0])))
        writer.writeheader()
        writer.writerows(asdict(reading) for reading in readings)
    if find_spec("matplotlib"):
        draw(readings, chosen.out, band)


if __name__ == "__main__":
    main()
