"""Linear layers whose singular values stay fixed while their singular vectors are learned.

A weight ``W = U diag(σ) Vᵀ`` keeps σ; U and V move on the manifold of orthonormal columns,
through ``torch.nn.utils.parametrizations.orthogonal``. Of the three maps that PyTorch has,
``cayley`` is the default: forward and backward of one 64 × 48 factor took 0.5 ms, against
1.3 ms of ``matrix_exp`` and 3.0 ms of ``householder`` (one core, float32).

Five properties of that parametrisation decide what is done here:

- It is a chart around a base point that stays where training began, and far from it steps
  become too short: of ten starts of an 8 × 8 layer with a known optimum none arrived in
  2,000 steps of Adam with ``cayley``, 9 with ``matrix_exp`` and 3 with ``householder``. With
  the base moved to the present point every 20 steps (``rebase``) all ten did, with each map.
- It starts exactly where it is told, but orthogonalises what is not orthonormal without a
  word. So factors are checked first.
- It completes a tall factor to a square one with random numbers of the global state. So
  that state is put back, and the numbers are always the same.
- No continuous path leads from determinant 1 to -1. Only in a square layer does this
  confine anything: det(U)·det(V) stays what it was at the start (``haar_factors``).
- Weight decay on its parameters does not act on the weight; with ``householder`` it sets
  the weight to zero, because its diagonal of -1 is cut to an integer. So none is applied.

Every layer may hold several weights at once, along leading dimensions: the restarts of an
experiment train side by side, and none learns from another.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

MAPS = ("cayley", "matrix_exp", "householder")


@dataclass(frozen=True)
class Factors:
    """The thin singular value decomposition of one weight, or of several of one shape.

    Attributes:
        U: Left singular vectors, orthonormal columns.
        sigma: Singular values, descending.
        V: Right singular vectors, orthonormal columns.
    """

    U: Float[Tensor, "*r out k"]
    sigma: Float[Tensor, "*r k"]
    V: Float[Tensor, "*r in k"]

    def weight(self) -> Float[Tensor, "*r out in"]:
        """The matrix that these are the factors of."""
        return _product(self.U, self.sigma, self.V)

    def of_restart(self, index: int) -> "Factors":
        """The factors of one of several weights."""
        return Factors(self.U[index], self.sigma[index], self.V[index])


def factors_of(weight: Float[Tensor, "*r out in"]) -> Factors:
    """Decompose a weight in float64.

    Args:
        weight: One weight, or several of one shape.

    Returns:
        The thin factors, of min(out, in) columns.
    """
    U, sigma, Vh = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    return Factors(U, sigma, Vh.mT)


def haar(
    rows: int, columns: int, generator: torch.Generator, count: int | None = None
) -> Float[Tensor, "*r rows columns"]:
    """Draw orthonormal columns uniformly (QR of normal entries; Mezzadri 2007).

    Args:
        rows: Their length.
        columns: How many; at most ``rows``.
        generator: The source of randomness.
        count: How many such matrices; None for one without a leading dimension.

    Returns:
        Float64; with ``columns == rows`` a rotation or a reflection, each half of the time.
    """
    shape = (rows, columns) if count is None else (count, rows, columns)
    Q, R = torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64))
    # without the signs of R the distribution of Q hangs on what LAPACK chooses
    signs = R.diagonal(dim1=-2, dim2=-1).sign()
    signed: Tensor = Q * torch.where(signs == 0, 1.0, signs).unsqueeze(-2)
    return signed


def haar_factors(
    like: Factors, generator: torch.Generator, count: int | None = None
) -> Factors:
    """Draw U and V uniformly, and keep the singular values.

    In a square layer the sign of det(U)·det(V) cannot change during training, and with the
    wrong one the original is out of reach. There the last column of V is turned round where
    the sign is not that of ``like``: one bit of the original, which all arms get.

    Args:
        like: Sizes, singular values and, if square, the sign of the determinant.
        generator: The source of randomness.
        count: How many; None for one without a leading dimension.

    Returns:
        The factors, float64.
    """
    (out, k), inputs = like.U.shape[-2:], like.V.shape[-2]
    U = haar(out, k, generator, count)
    V = haar(inputs, k, generator, count)
    if out == inputs:
        wrong = _sign(U, V) != _sign(like.U, like.V)
        V[..., -1] = torch.where(wrong.unsqueeze(-1), -V[..., -1], V[..., -1])
    return Factors(U, like.sigma.double().expand(*U.shape[:-2], k), V)


def _sign(U: Tensor, V: Tensor) -> Tensor:
    sign: Tensor = (torch.linalg.det(U) * torch.linalg.det(V)).sign()
    return sign


def _product(U: Tensor, sigma: Tensor, V: Tensor) -> Tensor:
    weight: Tensor = (U * sigma.unsqueeze(-2)) @ V.mT
    return weight


def rotated(
    vectors: Float[Tensor, "n k"],
    angle: float,
    generator: torch.Generator,
    count: int | None = None,
) -> Float[Tensor, "*r n k"]:
    """Turn vectors by ``e^(angle·A)`` with a random skew-symmetric A.

    Args:
        vectors: Columns.
        angle: The largest angle of the rotation, in radians: A has spectral norm 1.
        generator: The source of randomness.
        count: How many rotations; None for one without a leading dimension.

    Returns:
        The turned columns, float64.
    """
    n = vectors.shape[0]
    shape = (n, n) if count is None else (count, n, n)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    skew = normal - normal.mT
    size = torch.linalg.matrix_norm(skew, 2).clamp(min=math.ulp(1.0))
    turn = torch.linalg.matrix_exp(angle * skew / size[..., None, None])
    turned: Tensor = turn @ vectors.double()
    return turned


class FixedSpectrumLinear(nn.Module):
    """A linear layer ``x -> x Wᵀ + b``, ``W = U diag(σ) Vᵀ``, that learns U and V only.

    Args:
        factors: Where it starts. Its singular values are kept.
        bias: Frozen; None for none.
        orthogonal_map: One of ``MAPS``.
        dtype: Of the weight.

    Raises:
        ValueError: If the columns of U or V are not orthonormal, or there is no such map.
    """

    U: Tensor
    V: Tensor
    sigma: Tensor
    bias: Tensor | None

    def __init__(
        self,
        factors: Factors,
        bias: Float[Tensor, " out"] | None = None,
        orthogonal_map: str = "cayley",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if orthogonal_map not in MAPS:
            raise ValueError(
                f"Found the orthogonal map {orthogonal_map!r}, expected one of "
                f"{', '.join(MAPS)}."
            )
        _check_orthonormal(factors.U, "U")
        _check_orthonormal(factors.V, "V")
        self.register_buffer("sigma", factors.sigma.detach().to(dtype))
        self.register_buffer("bias", None if bias is None else bias.detach().to(dtype))
        for name, value in (("U", factors.U), ("V", factors.V)):
            setattr(self, name, nn.Parameter(value.detach().to(dtype).contiguous()))
            with _same_random_numbers():
                orthogonal(self, name, orthogonal_map)

    @torch.no_grad()
    def rebase(self) -> None:
        """Make the present U and V the base points of their charts; the weight stays."""
        with _same_random_numbers():
            self.U = self.U.clone()
            self.V = self.V.clone()

    @property
    def weight(self) -> Float[Tensor, "*r out in"]:
        """The matrix, computed anew each time."""
        return _product(self.U, self.sigma, self.V)

    def forward(self, x: Float[Tensor, "*n in"]) -> Float[Tensor, "*m out"]:
        """Apply the layer.

        Args:
            x: Samples; beside several weights with the same leading dimensions, or none.

        Returns:
            The outputs, with the leading dimensions of the weights.
        """
        return _affine(x, self.weight, self.bias)


class SeveralLinear(nn.Module):
    """Ordinary linear layers side by side, which learn the whole weight.

    Args:
        weight: Where they start.
        bias: Their biases; None for none.
    """

    def __init__(
        self,
        weight: Float[Tensor, "*r out in"],
        bias: Float[Tensor, "*r out"] | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    def forward(self, x: Float[Tensor, "*n in"]) -> Float[Tensor, "*m out"]:
        """Apply the layers.

        Args:
            x: Samples, with the leading dimensions of the weights or none.

        Returns:
            The outputs, with the leading dimensions of the weights.
        """
        bias = None if self.bias is None else self.bias.unsqueeze(-2)
        return _affine(x, self.weight, bias)


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """For the completion of tall factors, which moves smoothly with them this way."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = x @ weight.mT
    return out if bias is None else out + bias


def _check_orthonormal(Q: Tensor, name: str) -> None:
    k = Q.shape[-1]
    eye = torch.eye(k, dtype=torch.float64)
    error = float((Q.double().mT @ Q.double() - eye).abs().max()) if k else 0.0
    # rounding of float32 factors stays two orders below
    if not error < 1e-4:
        raise ValueError(
            f"Found columns of {name} whose products differ from those of orthonormal "
            f"ones by {error:.1e}, expected at most 1e-4. Pass the factors of a singular "
            "value decomposition."
        )
