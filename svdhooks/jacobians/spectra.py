"""Spectra of the Jacobians of some samples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from svdhooks.jacobians.options import JacobianOptions
from svdhooks.linalg.jacobian import (
    Function,
    Method,
    jacobian_products,
    jacobian_rows,
    jacobian_spectra,
    orthonormal_directions,
    refined_spectra,
)
from svdhooks.originals import unwatched


@dataclass(frozen=True)
class Spectra:
    """What is known of the Jacobians of some samples to one layer; on the CPU.

    Attributes:
        sigma: Singular values, descending.
        frobenius: Norms, or estimates of them.
        error: Bound on the error of refined singular values.
        complete: Whether they are those of the whole Jacobian.
        directions: How many directions, or rows, were taken.
    """

    sigma: Float[Tensor, "n r"]
    frobenius: Float[Tensor, " n"]
    error: Float[Tensor, " n"] | None
    complete: bool
    directions: int


@dataclass(frozen=True)
class How:
    """How Jacobians are taken.

    Attributes:
        method: How to differentiate.
        options: Say how fine the spectra are, and whether sketches are refined.
        chunk: Directions at once; None: all.
        factor: Takes products with outputs of the first layer to those with inputs.
        check: Given the products of all layers, before they are solved.
    """

    method: Method
    options: JacobianOptions
    chunk: int | None = None
    factor: Tensor | None = None
    check: Callable[[Mapping[str, Tensor]], None] | None = None


def of_products(
    function: Function, at: Tensor, directions: Tensor, how: How
) -> dict[str, Spectra]:
    """Spectra of several layers from products with directions.

    Args:
        function: What is differentiated.
        at: Where.
        directions: The directions.
        how: How.

    Returns:
        By layer.
    """
    method, chunk = how.method, how.chunk
    products = jacobian_products(function, at, directions, method, chunk)
    if how.check is not None:
        how.check(products)
    k, inputs = len(directions), at[:1].numel()
    found = {}
    for name in list(products):
        held = products.pop(name)
        sigma, frobenius = _solved(held, how)
        error = None
        if k < inputs:
            frobenius = frobenius * (inputs / k) ** 0.5
            if how.options.refine:
                refined = refined_spectra(
                    function, at, name, held, method=method, chunk=chunk
                )
                sigma, error = refined.sigma, refined.error
        found[name] = _held(sigma, frobenius, error, k == inputs, k)
    return found


def _solved(held: Tensor, how: How) -> tuple[Tensor, Tensor]:
    """Singular values and norms."""
    fine = {"resolution": how.options.relative_eps, "eps": how.options.eps}
    with unwatched():
        sigma = jacobian_spectra(held, how.factor, **fine)
        return sigma, sigma.double().square().sum(-1).sqrt()


def of_rows(
    function: Function, at: Tensor, name: str, shape: tuple[int, int], how: How
) -> dict[str, Spectra]:
    """Spectra of one layer by reverse mode: of all rows, or of random combinations.

    Args:
        function: What is differentiated.
        at: Where.
        name: The layer.
        shape: How many rows to take, and the dimension of its output.
        how: How.

    Returns:
        Of this layer.
    """
    rows, outputs = shape
    covectors = orthonormal_directions(
        rows, (outputs,), dtype=at.dtype, device=at.device
    )
    found = jacobian_rows(function, at, name, covectors, how.chunk)
    sigma, norm = _solved(found.reshape(len(at), rows, -1), how)
    norm = norm * (outputs / rows) ** 0.5
    return {name: _held(sigma, norm, None, rows == outputs, rows)}


def _held(
    sigma: Tensor, norm: Tensor, error: Tensor | None, complete: bool, directions: int
) -> Spectra:
    frobenius = norm.to(sigma.dtype).cpu()
    bound = None if error is None else error.to(sigma.dtype).cpu()
    return Spectra(sigma.cpu(), frobenius, bound, complete, directions)


def joined(parts: list[Mapping[str, Spectra]], name: str) -> Spectra:
    """The spectra of all samples of one layer.

    Args:
        parts: Of some samples each.
        name: The layer.

    Returns:
        One after the other.
    """
    several = [part[name] for part in parts]
    errors = [each.error for each in several if each.error is not None]
    # where samples have different numbers of rows, those of the others are zero
    width = max(each.sigma.shape[1] for each in several)
    sigma = [
        functional.pad(each.sigma, (0, width - each.sigma.shape[1])) for each in several
    ]
    return Spectra(
        torch.cat(sigma),
        torch.cat([each.frobenius for each in several]),
        torch.cat(errors) if errors else None,
        several[0].complete,
        several[0].directions,
    )
