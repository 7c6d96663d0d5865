"""One layer as a log holds it at one step: weight, bias, and moments of what passed it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.analysis._source import Columns, Source, vectors_of_weight

ROUNDING = 2.0**-22
"""Up to this ``residual`` a weight is stored to float32 rounding."""

POINTS = {"input": "input_moments", "output": "output_moments"}
"""Point of a layer -> where its moments are filed."""


@dataclass(frozen=True, eq=False)
class PointMoment:
    """What passed one point: exact moments of all samples.

    Attributes:
        count: Number of samples.
        mean: ``(d,)``, float64.
        covariance: ``(d, d)``, centred, with 1/N, float64.
    """

    count: int
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    def second_moment(
        self, bias: NDArray[Any] | None = None, center: bool = False
    ) -> NDArray[np.float64]:
        """``C + (μ - b)(μ - b)ᵀ``: of the samples without the bias.

        Args:
            bias: ``(d,)``, what was added to every sample; None: nothing.
            center: The covariance C alone, whatever the bias.

        Returns:
            ``(d, d)``.

        Raises:
            ValueError: If the bias is not as long as the samples.
        """
        if center:
            return self.covariance.copy()
        mean = self.mean
        if bias is not None:
            if np.shape(bias) != mean.shape:
                raise ValueError(
                    f"Found a bias of shape {np.shape(bias)}, expected {mean.shape}: "
                    "one number for each feature of the point."
                )
            mean = mean - np.asarray(bias, np.float64)
        return self.covariance + np.outer(mean, mean)


@dataclass(frozen=True, eq=False)
class LayerSnapshot:
    """One layer at one step, as far as it was recorded.

    Attributes:
        layer: Its name.
        step: Optimiser updates contained in the weights.
        U: Left singular vectors, ``(out, k)``.
        sigma: Singular values, descending, ``(k,)``.
        Vh: Right singular vectors, ``(k, in)``.
        bias: ``(out,)``; None: it has none, or none that was recorded.
        shape: ``(out, in)``; of a convolution that of its flattened kernel, channel by
            channel.
        positions: Kernel positions of a convolution; 1 of every other layer.
        complete: Whether the triplets are the weight to float32 rounding.
        input: Moments of what entered; of a convolution those of its patches. None: not
            recorded at this step.
        output: Moments of what left, with the bias in it.
        tied_to: The layer whose weight it shares and under whose name that is filed; a
            bias of its own is not recorded then.
    """

    layer: str
    step: int
    U: NDArray[Any]
    sigma: NDArray[Any]
    Vh: NDArray[Any]
    bias: NDArray[Any] | None
    shape: tuple[int, int]
    positions: int
    complete: bool
    input: PointMoment | None = None
    output: PointMoment | None = None
    tied_to: str | None = None

    def weight(self) -> NDArray[Any]:
        """``U·diag(σ)·Vᵀ``.

        Returns:
            ``(out, in)``, float64 (complex128 of a complex weight).

        Raises:
            ValueError: If some of the triplets were not recorded.
        """
        if not self.complete:
            raise ValueError(
                f"Layer {self.layer!r} has {len(self.sigma)} of its singular triplets "
                f"at step {self.step}, and those are not its whole weight. Record all "
                "of them with quantities=[svdhooks.WeightVectors(k=None), ...]."
            )
        wide = np.complex128 if np.iscomplexobj(self.U) else np.float64
        scaled = self.U.astype(wide) * self.sigma.astype(np.float64)
        product: NDArray[Any] = scaled @ self.Vh.astype(wide)
        return product


def layer_snapshot(
    source: Source, layer: str, step: int | None = None
) -> LayerSnapshot:
    """What was recorded of a layer at one step.

    Args:
        source: A `svdhooks.RunLog` or `svdhooks.MemorySink` with records of
            `svdhooks.WeightVectors`, and, for moments, of `svdhooks.PointMoments`.
        layer: Its name. The weight of a tied layer is that of the layer that it is tied
            to, transposed between an embedding and a linear layer.
        step: One with vectors; None: the last of them. Moments of other steps are not
            taken.

    Returns:
        The snapshot.

    Raises:
        KeyError: If no vectors of the layer were recorded.
        ValueError: If there are none of this step; names the steps that have some.
    """
    recorded = vectors_of_weight(source, layer)
    row = _row(recorded.steps, recorded.columns, layer, step)
    found = {name: arrays[row] for name, arrays in recorded.columns.items()}
    U, sigma, Vh = (_present(found, name, layer) for name in ("U", "sigma", "Vh"))
    if recorded.turned:
        U, Vh = Vh.T, U.T
    shape = (U.shape[0], Vh.shape[1])
    residual = found.get("residual")
    whole = len(sigma) == min(shape)  # of a log that does not say it
    at = int(recorded.steps[row])
    return LayerSnapshot(
        layer,
        at,
        U,
        sigma,
        Vh,
        found.get("bias") if recorded.tied_to is None else None,
        shape,
        _positions(source.described.get(layer), layer, shape),
        whole if residual is None else bool(residual[0] <= ROUNDING),
        **{point: point_moment(source, layer, point, at) for point in POINTS},
        tied_to=recorded.tied_to,
    )


def point_moment(
    source: Source, layer: str, point: str, step: int
) -> PointMoment | None:
    """The moments of what passed a point, at one step.

    Args:
        source: As of `layer_snapshot`.
        layer: Name of a layer, or of a tap.
        point: ``"input"`` or ``"output"``.
        step: Of the record.

    Returns:
        The moments; None if none were recorded then.
    """
    try:
        steps, columns = source.vectors(layer, POINTS[point])
    except KeyError:
        return None
    rows = np.flatnonzero(steps == step)
    if not len(rows):
        return None
    row = int(rows[0])
    packed, mean, count = (
        arrays[row] if (arrays := columns.get(name)) is not None else None
        for name in ("covariance", "mean", "samples")
    )
    if packed is None or mean is None or count is None:
        return None
    return PointMoment(int(count[0]), mean, unpacked(packed, len(mean)))


def unpacked(triangle: NDArray[np.float64], d: int) -> NDArray[np.float64]:
    """A symmetric matrix from its upper triangle, row by row.

    Args:
        triangle: ``d (d + 1) / 2`` entries.
        d: Rows.

    Returns:
        ``(d, d)``.
    """
    whole = np.empty((d, d))
    rows, columns = np.triu_indices(d)
    whole[rows, columns] = triangle
    whole[columns, rows] = triangle
    return whole


def _row(
    steps: NDArray[np.int64], columns: Columns, layer: str, step: int | None
) -> int:
    """The row of a step that has vectors."""
    there = [i for i, U in enumerate(columns.get("U", ())) if U is not None]
    if step is None and there:
        return there[-1]
    for row in there:
        if steps[row] == step:
            return row
    known = ", ".join(str(steps[row]) for row in there) or "none"
    raise ValueError(
        f"Found no singular vectors of layer {layer!r} at step {step}; there are some "
        f"at steps {known}. Give one of these, or None for the last."
    )


def _present(
    found: Mapping[str, NDArray[Any] | None], name: str, layer: str
) -> NDArray[Any]:
    array = found.get(name)
    if array is None:
        raise ValueError(
            f"The vectors of layer {layer!r} lack {name}; expected U, sigma and Vh as "
            "svdhooks.WeightVectors records them."
        )
    return array


def _positions(
    row: Mapping[str, Any] | None, layer: str, shape: tuple[int, int]
) -> int:
    """How many columns of the weight belong to one channel."""
    if not row or "kind" not in row:
        raise ValueError(
            f"The layer table says nothing of {layer!r}, so that it is not known "
            "whether it is a convolution; expected its row in source.described."
        )
    channels = dict(row.get("points", {})).get("input", 0)
    convolution = str(row["kind"]).startswith("conv")
    return shape[1] // int(channels) if convolution and channels else 1
