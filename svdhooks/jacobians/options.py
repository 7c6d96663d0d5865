"""How Jacobians are taken, and what comes of it for one layer."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Positions = Literal["all", "mean"] | int
"""Which positions of a sequence or an image belong to the output of a sample."""


@dataclass(frozen=True)
class JacobianOptions:
    """How the Jacobians from the input point to the layers are taken.

    Attributes:
        directions: Directions of a random sketch, taken where a full basis does not fit.
            Layers with no more outputs than that are exact, by all of their rows, as far
            as ``max_directions`` rows suffice for all of them.
        max_directions: The largest full basis: dimension of the input point, width of a
            first linear layer, or number of rows of all layers together.
        max_samples: Of a larger batch that many, evenly spread; None: all.
        max_bytes: Bound on what is held at once; samples, layers and directions are
            taken in parts that fit.
        positions: Of outputs with several positions: all of them, side by side; their
            mean; or one of them (from the end if negative).
        point: Name of the module whose output is the input point. None: the first
            floating-point tensor of the batch, and without one the output of the first
            embedding that is called.
        batch_axis: Axis of the input point that holds the samples; None: found.
        refine: Refine a sketch: its leading singular values become those of the
            Jacobian, up to a stated error.
        eps: Smallest singular value that has to come out right.
        relative_eps: Smallest ratio to the largest one that has to come out right. Where
            Gram matrices do not resolve either, SVDs are taken.
    """

    directions: int = 64
    max_directions: int = 1024
    max_samples: int | None = 32
    max_bytes: int = 2**29
    positions: Positions = "all"
    point: str | None = None
    batch_axis: int | None = None
    refine: bool = False
    eps: float | None = None
    relative_eps: float | None = None

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            TypeError: If one is of a wrong kind.
            ValueError: If one is out of range.
        """
        for name in ("directions", "max_directions", "max_samples", "max_bytes"):
            number = getattr(self, name)
            if name == "max_samples" and number is None:
                continue
            if not _whole(number):
                raise TypeError(f"{name}={number!r}: expected a whole number.")
            if number < 1:
                raise ValueError(f"{name}={number}: expected at least 1.")
        if self.positions not in {"all", "mean"} and not _whole(self.positions):
            raise ValueError(
                f"positions={self.positions!r}: expected 'all', 'mean', or the number "
                "of one position."
            )
        if not (self.batch_axis is None or _whole(self.batch_axis)):
            raise TypeError(
                f"batch_axis={self.batch_axis!r}: expected the number of an axis of the "
                "input, or None."
            )
        if not (self.point is None or isinstance(self.point, str)):
            raise TypeError(
                f"point={self.point!r}: expected the name of a module whose output is "
                "the input point, or None."
            )
        for name in ("eps", "relative_eps"):
            threshold = getattr(self, name)
            if threshold is not None:
                check_threshold(name, threshold)


def check_threshold(name: str, value: object) -> None:
    """Refuse what singular values cannot be compared with.

    Args:
        name: Of the argument.
        value: What was given.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is negative, infinite or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={value!r}: expected a number.")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(
            f"{name}={value}: expected a threshold: finite and not negative, such as "
            "0.01."
        )


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


@dataclass(frozen=True, eq=False)
class LayerJacobian:
    """The Jacobians from the input point to one layer's output, sample by sample.

    Attributes:
        status: ``"ok"``, or why there is nothing, in words.
        method: How: ``"forward"``, ``"double_backward"`` or ``"reverse"``; with
            ``"first_layer "`` before it where the basis is that of the first layer.
        spectra: Singular values, descending, on the CPU; ``(0, 0)`` if it failed.
        complete: Whether they are those of the whole Jacobian. Otherwise they are lower
            bounds, and so are ranks counted above an absolute threshold; those above a
            share of the largest one are an estimate.
        directions: How many were taken.
        inputs: Dimension of the input point, of one sample.
        outputs: Dimension of the layer's output, of one sample.
        frobenius: Norm of each Jacobian; exact where complete, else an unbiased
            estimate of its square, under the root.
        error: Bound on the error of the leading singular values that were refined.
    """

    status: str
    method: str
    spectra: Float[Tensor, "samples r"]
    complete: bool
    directions: int
    inputs: int
    outputs: int
    frobenius: Float[Tensor, " samples"]
    error: Float[Tensor, " samples"] | None = None

    @property
    def ok(self) -> bool:
        """Whether there are numbers."""
        return self.status == "ok"

    @classmethod
    def failed(cls, reason: str, inputs: int = 0, outputs: int = 0) -> "LayerJacobian":
        """Without numbers.

        Args:
            reason: Why, in words.
            inputs: Dimension of the input point, where it is known.
            outputs: Dimension of the layer's output, where it is known.

        Returns:
            The result.
        """
        nothing = torch.zeros(0)
        empty = nothing.reshape(0, 0)
        return cls(reason, "", empty, False, 0, inputs, outputs, nothing)
