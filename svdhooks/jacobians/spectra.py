"""Spectra of the Jacobians of some samples."""

from collections.abc import Mapping
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


def of_products(
    function: Function,
    at: Tensor,
    directions: Tensor,
    method: Method,
    chunk: int | None,
    factor: Tensor | None,
    options: JacobianOptions,
) -> dict[str, Spectra]:
    """Spectra of several layers from products with directions.

    Args:
        function: What is differentiated.
        at: Where.
        directions: The directions.
        method: How.
        chunk: Directions at once.
        factor: Takes products with the first layer's outputs to those with inputs.
        options: Say whether sketches are refined.

    Returns:
        By layer.
    """
    products = jacobian_products(function, at, directions, method, chunk)
    k, inputs = len(directions), at[:1].numel()
    found = {}
    for name in list(products):
        held = products.pop(name)
        sigma, frobenius = _solved(held, factor, options)
        error = None
        if k < inputs:
            frobenius = frobenius * (inputs / k) ** 0.5
            if options.refine:
                refined = refined_spectra(
                    function, at, name, held, method=method, chunk=chunk
                )
                sigma, error = refined.sigma, refined.error
        found[name] = _held(sigma, frobenius, error, k == inputs, k)
    return found


def _solved(
    held: Tensor, factor: Tensor | None, options: JacobianOptions
) -> tuple[Tensor, Tensor]:
    """Singular values and norms."""
    with unwatched():
        sigma = jacobian_spectra(
            held, factor, resolution=options.resolution, eps=options.eps
        )
        return sigma, sigma.double().square().sum(-1).sqrt()


def of_rows(
    function: Function,
    at: Tensor,
    name: str,
    outputs: int,
    rows: int,
    chunk: int | None,
    options: JacobianOptions,
) -> dict[str, Spectra]:
    """Spectra of one layer by reverse mode: of all rows, or of random combinations.

    Args:
        function: What is differentiated.
        at: Where.
        name: The layer.
        outputs: Dimension of its output.
        rows: How many.
        chunk: Rows at once.
        options: Say how fine the spectra are.

    Returns:
        Of this layer.
    """
    covectors = orthonormal_directions(
        rows, (outputs,), dtype=at.dtype, device=at.device
    )
    found = jacobian_rows(function, at, name, covectors, chunk).flatten(2)
    sigma, norm = _solved(found, None, options)
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
