"""What the spectra of the Jacobians of every layer cost, against reverse mode.

The baseline goes layer by layer: ``torch.func.vjp``, vmapped over the rows, with all
samples in each pass (which is faster than a vmap over the samples too); then
``svdvals``, or the float64 Gram matrix of the smaller side and ``eigvalsh``. A sketch
has there as many random rows as it has random directions here.

Ours is the full work, at three heights: the functions of ``svdhooks.linalg`` (all
products in one pass, and all singular values); a record, which adds hooks, the search
for NaN and the restoring of the model; and one call of ``svdhooks.local_rank``, which
finds out first what is known from the first record on: where samples and positions
are, which method is right for which layer (the adjoint check), and the basis.

Usage: OMP_NUM_THREADS=1 python benchmarks/local_rank.py [--rounds 7] [--cases mlp]
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from _bench import show, side_by_side
from models import Gpt, mlp, resnet
from torch import Tensor, nn
from torch.func import vjp, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from svdhooks import linalg
from svdhooks.jacobians.differentiator import Differentiator
from svdhooks.jacobians.front import local_rank
from svdhooks.jacobians.options import JacobianOptions
from svdhooks.layers import find_layers
from svdhooks.probe import ReferenceBatch

KINDS = (nn.Linear, nn.Conv2d)
Function = Callable[[Tensor], dict[str, Tensor]]
Spectra = dict[str, np.ndarray]


@dataclass
class Case:
    """A model, a batch, and in how many directions it is differentiated.

    Attributes:
        name: For tables.
        model: In evaluation mode.
        batch: What enters.
        directions: None: all of them.
        root: The module whose output is the input point; None: the batch itself.
        training: A batch of training, and what it is in words.
    """

    name: str
    model: nn.Module
    batch: Tensor
    directions: int | None
    training: tuple[Tensor, str]
    root: nn.Module | None = None
    layers: dict[str, nn.Module] = field(init=False)

    def __post_init__(self) -> None:
        named = self.model.named_modules()
        self.layers = {name: part for name, part in named if isinstance(part, KINDS)}

    def point(self) -> Tensor:
        """Zeros, to be added to the input point."""
        with torch.no_grad():
            entering = self.root(self.batch) if self.root else self.batch
        return torch.zeros_like(entering)

    def function(self, start: str | None = None) -> Function:
        """From delta to all pre-activations; delta is added at the start layer."""

        def outputs_of(delta: Tensor) -> dict[str, Tensor]:
            found: dict[str, Tensor] = {}
            with self._hooked(found, delta, start):
                self.model(self.batch if self.root or start else self.batch + delta)
            return found

        return outputs_of

    @contextmanager
    def _hooked(
        self, found: dict[str, Tensor], delta: Tensor, start: str | None
    ) -> Iterator[None]:
        handles = []
        shifted = self.layers[start] if start else self.root
        if shifted is not None:
            shift = shifted.register_forward_hook(lambda _m, _a, out: out + delta)
            handles.append(shift)
        for name, layer in self.layers.items():

            def keep(
                _module: nn.Module, _args: object, out: Tensor, name: str = name
            ) -> None:
                # a copy: the activation behind may work in place
                found[name] = out.flatten(1).clone()

            handles.append(layer.register_forward_hook(keep))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def rows_of(case: Case) -> dict[str, Tensor]:
    """The baseline's Jacobians, or random rows of them: ``(samples, rows, inputs)``."""
    function, at = case.function(), case.point()
    rows = {}
    for name in case.layers:
        output, pull = vjp(lambda delta, name=name: function(delta)[name], at)
        n, m = output.shape
        if case.directions is None:
            covectors = torch.eye(m)
        else:
            k = min(case.directions, m)
            covectors = linalg.orthonormal_directions(k, (m,))
        common = covectors[:, None].expand(-1, n, -1)
        (found,) = vmap(pull)(common)
        rows[name] = found.flatten(2).transpose(0, 1).detach()
    return rows


def by_svd(case: Case) -> Spectra:
    return {name: torch.linalg.svdvals(J).numpy() for name, J in rows_of(case).items()}


def by_gram(case: Case) -> Spectra:
    spectra = {}
    for name, J in rows_of(case).items():
        wide = J.double() if J.shape[1] <= J.shape[2] else J.mT.double()
        values = torch.linalg.eigvalsh(wide @ wide.mT)
        spectra[name] = values.clamp(min=0).sqrt().flip(-1).numpy()
    return spectra


def products_of(case: Case) -> dict[str, Tensor]:
    """Ours: all layers in one pass; the basis behind a smaller first linear layer."""
    at = case.point()
    size = at[0].numel()
    shape = tuple(at.shape[1:])
    first, layer = next(iter(case.layers.items()))
    if case.directions is None and isinstance(layer, nn.Linear):
        R = linalg.first_layer_factor(layer.weight).to(at)
        start = torch.zeros(len(at), len(R))
        return linalg.jacobian_products(case.function(first), start, R.mT)
    V = linalg.orthonormal_directions(case.directions or size, shape)
    return linalg.jacobian_products(case.function(), at, V)


def ours(case: Case) -> Spectra:
    return {
        name: linalg.jacobian_spectra(J).numpy()
        for name, J in products_of(case).items()
    }


def recording(case: Case) -> Callable[[], Spectra]:
    """Ours as a recorder does it, again and again."""
    options = JacobianOptions(case.directions or 64, eps=0.01)
    differentiator = Differentiator(case.model, None, options)
    watched = find_layers(case.model, KINDS).layers
    reference = ReferenceBatch.given(case.batch)

    def record() -> Spectra:
        found = differentiator.measure(watched, reference)
        return {name: jacobian.spectra.numpy() for name, jacobian in found.items()}

    return record


def once(case: Case) -> Spectra:
    """Ours by the front door."""
    found = local_rank(
        case.model, case.batch, layers=KINDS, directions=case.directions or 64
    )
    return {name: rank.spectra.numpy() for name, rank in found.items()}


def step(case: Case) -> Callable[[], None]:
    """A plain training step of the model."""
    optimizer = torch.optim.AdamW(case.model.parameters(), 1e-9)
    batch, _ = case.training

    def train() -> None:
        logits = case.model(batch).flatten(0, -2)
        target = torch.zeros(len(logits), dtype=torch.int64)
        functional.cross_entropy(logits, target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return train


def cases() -> dict[str, Case]:
    torch.manual_seed(0)
    chain = mlp(784, 200, 4)
    images = resnet(width=16)
    text = Gpt(vocabulary=256, length=32, width=64, depth=4, heads=4)
    for model in (chain, images, text):
        model.eval()
    tokens = torch.randint(0, 256, (36, 32))
    return {
        "mlp": Case(
            "MLP 784-200x4-10, 32 samples, all directions",
            chain,
            torch.randn(32, 784),
            None,
            (torch.randn(128, 784), "128 rows"),
        ),
        "resnet": Case(
            "ResNet-18 w16, 4 images 32x32, 32 directions",
            images,
            torch.randn(4, 3, 32, 32),
            32,
            (torch.randn(128, 3, 32, 32), "128 images"),
        ),
        "transformer": Case(
            "transformer 4L d64, 4 x 32 tokens, 32 directions",
            text,
            tokens[:4],
            32,
            (tokens[4:], "32 x 32 tokens"),
            root=text.tokens,
        ),
    }


def check(case: Case, candidates: Mapping[str, Callable[[], Any]]) -> None:
    """Complete Jacobians have the same singular values by every road."""
    found = {name: work() for name, work in candidates.items()}
    expected = found["svd"]
    for name, spectra in found.items():
        assert spectra.keys() == expected.keys()
        for layer, sigma in spectra.items():
            if case.directions is None:
                r = sigma.shape[1]
                scale = 2e-6 * expected[layer].max()
                np.testing.assert_allclose(
                    sigma, expected[layer][:, :r], rtol=1e-4, atol=scale, err_msg=name
                )


Table = list[tuple[str, ...]]


def compare(case: Case, rounds: int, tables: tuple[Table, Table]) -> None:
    """Rows of the tables of times and of ratios."""
    candidates: dict[str, Callable[[], Any]] = {
        "svd": lambda: by_svd(case),
        "gram": lambda: by_gram(case),
        "functions": lambda: ours(case),
        "record": recording(case),
        "once": lambda: once(case),
    }
    with sdpa_kernel(SDPBackend.MATH):
        check(case, candidates)
        candidates["reverse"] = lambda: rows_of(case)
        candidates["products"] = lambda: products_of(case)
        times = side_by_side(candidates, rounds)
    train = side_by_side({"step": step(case)}, rounds)["step"]
    tables[0].append((case.name, *(f"{1e3 * times[name]:.0f}" for name in times)))
    for name in ("svd", "gram"):
        ratios = (f"{times[name] / times[own]:.1f}" for own in OURS)
        tables[1].append((f"{case.name}; {NAMES[name]}", *ratios))
    steps = (f"{times[own] / train:.1f}" for own in OURS)
    tables[1].append((f"{case.name}; steps of {case.training[1]}", *steps))


NAMES = {
    "svd": "reverse, svdvals",
    "gram": "reverse, Grams",
    "functions": "functions",
    "record": "a record",
    "once": "local_rank()",
    "reverse": "only rows",
    "products": "only products",
}
OURS = ("functions", "record", "once")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    every = cases()
    parser.add_argument("--cases", nargs="+", choices=every, default=list(every))
    options = parser.parse_args()
    torch.set_num_threads(1)
    tables: tuple[Table, Table] = ([], [])
    for name in options.cases:
        compare(every[name], options.rounds, tables)
    title = "Spectra of the Jacobians of every layer, CPU ms, median"
    show(title, tables[0], ("", *NAMES.values()))
    show("In units of ours", tables[1], ("", *(NAMES[own] for own in OURS)))


if __name__ == "__main__":
    main()
