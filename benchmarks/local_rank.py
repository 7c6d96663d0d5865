"""What the spectra of the Jacobians of every layer cost, against reverse mode.

The baseline goes layer by layer: ``torch.func.vjp``, vmapped over rows and samples
(at its best faster than all samples in one pass and a vmap over the rows: 118 against
173 ms for the MLP, 2290 against 2670 for the ResNet); then ``svdvals``, or the float64 Gram matrix of the smaller side and ``eigvalsh``. A sketch
has there as many random rows as it has random directions here.

Ours is the full work, at three heights: the functions of ``svdhooks.linalg`` (all
products in one pass, and all singular values); a record, which adds hooks, the search
for NaN and the restoring of the model; and one call of ``svdhooks.local_rank``, which
finds out first what is known from the first record on: where samples and positions
are, which method is right for which layer (the adjoint check), and the basis.

Usage: OMP_NUM_THREADS=1 python benchmarks/local_rank.py [--rounds 7] [--cases mlp]
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from _bench import show, side_by_side
from jacobian_cases import KINDS, Case, cases
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

Spectra = dict[str, np.ndarray]


def rows_of(case: Case) -> dict[str, Tensor]:
    """The baseline's Jacobians, or random rows of them: ``(samples, rows, inputs)``."""
    with torch.no_grad():
        entering = case.root(case.batch) if case.root else case.batch
    rows = {}
    for name in case.layers:

        def alone(sample: Tensor, name: str = name) -> Tensor:
            return case.output(name, sample[None])[0]

        m = alone(entering[0]).numel()
        # as many as there are outputs: the unit vectors
        k = m if case.directions is None else min(case.directions, m)
        covectors = linalg.orthonormal_directions(k, (m,))

        def pulled(
            sample: Tensor,
            alone: Callable[[Tensor], Tensor] = alone,
            covectors: Tensor = covectors,
        ) -> Tensor:
            _, pull = vjp(alone, sample)
            (found,) = vmap(pull)(covectors)
            return found

        rows[name] = vmap(pulled)(entering).flatten(2).detach()
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
