"""The orthogonal matrix that makes the outputs of a layer as smooth as they can be.

A descrambler P minimises ``η(P) = ‖D P S‖²``, where the columns of S are pre-activations and
D is a derivative (Amey, Keeley, Choudhury & Kuprov, PNAS 118, 2021). This is the Brockett
function ``tr(A P B Pᵀ)`` of ``A = DᵀD`` and ``B = S Sᵀ``, so its minimum is known: eigenvalues
in opposite order, ``P* = T Uᵀ``, with the eigenvectors T of A ascending and U of B descending
(Sule, Spencer & Czaja, Appl. Comput. Harmon. Anal. 79, 2025). The i-th principal component
of the pre-activations becomes the i-th smoothest mode.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Shaped
from torch import Tensor

from svdhooks.linalg import _solvers
from svdhooks.linalg._second_moments import real, rounding, symmetric, vector
from svdhooks.linalg._smoothness import Operator, smooth_basis
from svdhooks.linalg.signal_models import oriented


@dataclass(frozen=True, eq=False)
class Descrambling:
    """The best descrambler of a second moment, and what it gains.

    Costs are in the units of the moment times those of ``DᵀD``, unscaled. They are
    resolved to about ``1e-16·n·a_n·b_1`` of the largest eigenvalues of both.

    Attributes:
        P: The descrambler ``T Uᵀ``, orthogonal. Not unique: signs of columns of U,
            rotations within equal eigenvalues of either side.
        cost: η(P), evaluated.
        identity_cost: η(I): of the layer as it is.
        lower_bound: ``Σ a_i b_i``, eigenvalues in opposite order.
        upper_bound: ``Σ a_i b_{n+1-i}``: the worst that any orthogonal matrix does.
        eigengaps: Distance of each eigenvalue of the moment to its nearest neighbour,
            in units of the largest one; infinite for n = 1, 0 for a moment of zeros.
        eigenvalues: Of the moment, descending, not negative.
        U: Its eigenvectors as columns, the largest entry of each positive.
        T: The modes of the operator as columns, the smoothest first.
        operator_eigenvalues: Of ``DᵀD``, ascending.
    """

    P: Float64[Tensor, "n n"]
    cost: float
    identity_cost: float
    lower_bound: float
    upper_bound: float
    eigengaps: Float64[Tensor, " n"]
    eigenvalues: Float64[Tensor, " n"]
    U: Float64[Tensor, "n n"]
    T: Float64[Tensor, "n n"]
    operator_eigenvalues: Float64[Tensor, " n"]

    @property
    def relative_gap(self) -> float:
        """Where η(P) lies between its bounds: 0 best, 1 worst; NaN where they are equal.

        The closed form leaves rounding only.
        """
        return self._between(self.cost)

    @property
    def scrambling(self) -> float:
        """Where η(I) lies between the bounds: 0 smooth already, 1 as rough as can be.

        NaN where the bounds are equal, as for an isotropic moment.
        """
        return self._between(self.identity_cost)

    def weight(self, W: Shaped[Tensor, "n ..."]) -> Float64[Tensor, "n ..."]:
        """``P W``: the layer's own weight with its outputs descrambled.

        Args:
            W: The weight, ``(out, in)`` or ``(out, in, *kernel)``; a bias too.

        Returns:
            float64, of the same shape.

        Raises:
            ValueError: If the first axis does not have n entries.
            TypeError: If the entries are no real floating numbers.
        """
        double = real(W, "a weight")
        self._check_axis(double, 0, "outputs")
        product: Tensor = torch.tensordot(self.P, double, dims=1)
        return product

    def next_weight(self, W: Shaped[Tensor, "m n ..."]) -> Float64[Tensor, "m n ..."]:
        """``W Pᵀ``: the weight of a layer that reads what P descrambles.

        Args:
            W: The weight, ``(out, in)`` or ``(out, in, *kernel)``.

        Returns:
            float64, of the same shape.

        Raises:
            ValueError: If the second axis does not have n entries.
            TypeError: If the entries are no real floating numbers.
        """
        double = real(W, "a weight")
        self._check_axis(double, 1, "inputs")
        product: Tensor = torch.tensordot(double, self.P.mT, dims=([1], [0]))
        return product.movedim(-1, 1)

    def identifiable(self, gap: float | int = 0.01) -> Bool[Tensor, " n"]:
        """Which modes are directions of their own, rather than of a span.

        An error ``‖ΔB‖`` of the moment turns an eigenvector by about its ratio to the
        gap (Davis & Kahan 1970): N samples resolve gaps above some ``N^-½``.

        Args:
            gap: Smallest eigengap that counts, in units of the largest eigenvalue.

        Returns:
            One entry per mode.
        """
        return self.eigengaps >= gap

    def spans(self, gap: float | int = 0.01) -> list[range]:
        """Neighbouring modes inside small gaps, to be compared as spans.

        Args:
            gap: Eigenvalues that are closer, in units of the largest one, belong
                together.

        Returns:
            Ranges of at least two modes, in order.
        """
        top = float(self.eigenvalues[0])
        between = (self.eigenvalues[:-1] - self.eigenvalues[1:]) / (top or 1.0)
        close = [*(between < gap).tolist(), False]
        found, start = [], 0
        for i, together in enumerate(close):
            if not together:
                if i > start:
                    found.append(range(start, i + 1))
                start = i + 1
        return found

    def _between(self, cost: float) -> float:
        width = self.upper_bound - self.lower_bound
        # rounding alone lies between the bounds of an isotropic moment
        noise = 1e-13 * self.upper_bound
        return (cost - self.lower_bound) / width if width > noise else float("nan")

    def _check_axis(self, W: Tensor, axis: int, what: str) -> None:
        n = len(self.P)
        if W.ndim <= axis or W.shape[axis] != n:
            raise ValueError(
                f"Found a weight of shape {tuple(W.shape)}, expected {n} {what} on axis "
                f"{axis}: the descrambler is of a moment of {n} features."
            )


def descramble(
    second_moment: Shaped[Tensor, "..."], operator: Operator = "fourier2"
) -> Descrambling:
    """The exact minimiser of ``tr(DᵀD P B Pᵀ)`` over orthogonal P, for a second moment B.

    One eigendecomposition; no optimiser.

    Args:
        second_moment: B, ``E[s sᵀ]`` or ``S Sᵀ`` of pre-activations, without bias and not
            centred as the method is defined (`preactivation_moment`); symmetric,
            positive semi-definite, of any real floating dtype.
        operator: ``"fourier2"``, ``"difference"`` or a square matrix D, as for
            `smoothness_operator`.

    Returns:
        P* with its cost, bounds and eigengaps, on the device of the moment.

    Raises:
        ValueError: If the moment is not square, symmetric, finite and positive
            semi-definite, or if the operator does not fit.
        TypeError: If the moment is complex or of integers.
        torch.linalg.LinAlgError: If the decomposition does not converge.
    """
    B = symmetric(second_moment, "second moment")
    n = len(B)
    if n == 0:
        raise ValueError("Found a second moment of shape (0, 0), expected n ≥ 1.")
    a, T = (part.to(B.device) for part in smooth_basis(n, operator))
    values, vectors = _solvers.eigenpairs(B)
    b, U = values.flip(0), oriented(vectors.flip(1))
    _check_semidefinite(b, second_moment.dtype)
    b = b.clamp(min=0.0)
    P = T @ U.mT
    return Descrambling(
        P=P,
        cost=_cost(a, P.mT @ T, B),
        identity_cost=_cost(a, T, B),
        lower_bound=float((a * b).sum()),
        upper_bound=float((a * b.flip(0)).sum()),
        eigengaps=_gaps(b),
        eigenvalues=b,
        U=U,
        T=T,
        operator_eigenvalues=a,
    )


def preactivation_moment(
    covariance: Shaped[Tensor, "..."],
    mean: Shaped[Tensor, "..."],
    bias: Shaped[Tensor, "..."] | None = None,
    center: bool = False,
) -> Float64[Tensor, "n n"]:
    """``C + (μ - b)(μ - b)ᵀ``: second moment of ``W x``, without the bias b.

    With the bias left in, the first principal component tends to be the bias.

    Args:
        covariance: C of the pre-activations, ``(n, n)``, centred, with 1/N.
        mean: Their mean μ, ``(n,)``.
        bias: What the layer adds, ``(n,)``; None: nothing.
        center: Take C alone: how the outputs vary, whatever their mean.

    Returns:
        B in float64.

    Raises:
        ValueError: If the shapes do not fit, or C is not symmetric and finite.
        TypeError: If something is complex or of integers.
    """
    C = symmetric(covariance, "covariance")
    shift = vector(mean, "mean", len(C)).to(C)
    if bias is not None:
        shift = shift - vector(bias, "bias", len(C)).to(C)
    return C if center else C + torch.outer(shift, shift)


def large_data_moment(
    weight: Shaped[Tensor, "..."], input_moment: Shaped[Tensor, "..."] | None = None
) -> Float64[Tensor, "out out"]:
    """``W R Wᵀ``: what the second moment of ``W x`` tends to as data grow.

    Its eigenvectors are the left singular vectors of ``W R^½``, its eigenvalues the squared
    singular values.

    Args:
        weight: W, ``(out, in)``; of a convolution ``(out, in·kernel)``.
        input_moment: R = ``E[x xᵀ]``, not centred, ``(in, in)``; of a convolution that of
            its patches. None: white input, R = I. That is an assumption, under which
            ``P* W = T Σ Vᵀ``.

    Returns:
        B in float64.

    Raises:
        ValueError: If the shapes do not fit, or R is not symmetric and finite.
        TypeError: If something is complex or of integers.
    """
    W = real(weight, "a weight")
    if W.ndim != 2:
        raise ValueError(
            f"Found a weight of shape {tuple(W.shape)}, expected (out, in). Flatten a "
            "kernel with weight.flatten(1)."
        )
    if input_moment is None:
        B: Tensor = W @ W.mT
        return B
    R = symmetric(input_moment, "input moment").to(W.device)
    if len(R) != W.shape[1]:
        raise ValueError(
            f"Found an input moment of shape {tuple(R.shape)}, expected "
            f"({W.shape[1]}, {W.shape[1]}) for a weight of {tuple(W.shape)}."
        )
    B = W @ R @ W.mT
    return (B + B.mT) / 2


def _cost(a: Tensor, modes: Tensor, B: Tensor) -> float:
    """``tr(A P B Pᵀ)`` from the columns of ``PᵀT``."""
    return float((a * (modes * (B @ modes)).sum(0)).sum())


def _gaps(b: Tensor) -> Tensor:
    """Relative distance of descending values to the nearest other one."""
    if not float(b[0]) > 0.0:
        return torch.zeros_like(b)
    end = torch.full_like(b[:1], float("inf"))
    between = torch.cat([end, (b[:-1] - b[1:]) / b[0], end])
    return torch.minimum(between[:-1], between[1:])


def _check_semidefinite(b: Tensor, dtype: torch.dtype) -> None:
    """Refuse negative eigenvalues that are no rounding errors of the moment's dtype."""
    largest = float(b.abs().max())
    if float(b[-1]) < -(rounding(dtype) * largest):
        raise ValueError(
            f"Found an eigenvalue of {float(b[-1]):.3g} beside {float(b[0]):.3g}, "
            "expected a second moment, which has none below 0."
        )
