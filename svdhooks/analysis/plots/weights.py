"""A layer's weight, raw and descrambled, beside their Fourier transforms."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from svdhooks.analysis.descrambling import DescrambledLayer
from svdhooks.analysis.plots._canvas import (
    POSITIVE,
    SIGNED,
    Axes,
    Figure,
    colour_bar,
    from_zero,
    label,
    name_figure,
    new_figure,
    panel_title,
    quiet,
    shown,
    symmetric,
    whole_ticks,
)


@dataclass(frozen=True)
class _Side:
    """How the weight is drawn where one of its sides is descrambled.

    Attributes:
        product: What is drawn beside the raw weight.
        mixed: The axis whose units the descrambler mixes; the other is transformed.
        x, y: Labels of the raw weight.
        smooth: Label of the mixed axis once it is descrambled.
        transformed: What the transform is of.
    """

    product: str
    mixed: int
    x: str = "input"
    y: str = "output"
    smooth: str = "place in the smooth order"
    transformed: str = "rows"


_SIDES = {
    "out": _Side("P W", 0),
    "in": _Side("W Pᵀ", 1, transformed="columns"),
}
_SOURCES = {
    "measured": "P from the measured moment",
    "large": "P from W and the input moment, as for endless data",
    "white": "P from W alone, as for white input",
}


def plot_descrambled(layer: DescrambledLayer) -> Figure:
    """Draw a layer's weight before and after descrambling, and |DFT| of both.

    Above the raw weight and the descrambled one, on one colour scale that is symmetric
    about zero; below them the modulus of the discrete Fourier transform, 1/√n, along the
    side that is not mixed: of the rows of P W (inputs), of the columns of W Pᵀ (outputs).
    Both have the unit of the weight.

    Args:
        layer: From `svdhooks.analysis.descrambled`.

    Returns:
        A figure of four images and two colour bars, not registered with pyplot.

    Raises:
        ImportError: If matplotlib is not installed: ``svdhooks[analysis]``.
    """
    side = _SIDES[layer.side]
    weights = [layer.weight, layer.descrambled]
    transforms = [modulus_of_dft(weight, 1 - side.mixed) for weight in weights]
    figure = new_figure(9.5, 6.0)
    axes = figure.subplots(2, 2)
    scale, positive = symmetric(*weights), from_zero(*transforms)
    titles = ("raw weight W", f"descrambled weight {side.product}")
    for column, (title, weight, transform) in enumerate(
        zip(titles, weights, transforms, strict=True)
    ):
        above = axes[0, column].imshow(
            weight, cmap=SIGNED, norm=scale, aspect="auto", origin="upper"
        )
        panel_title(axes[0, column], title)
        below = axes[1, column].imshow(
            transform,
            cmap=POSITIVE,
            norm=positive,
            aspect="auto",
            origin="upper" if side.mixed == 0 else "lower",
            extent=_extent(transform, side.mixed),
        )
        of = title.split()[-1] if column == 0 else side.product
        panel_title(axes[1, column], f"|DFT| of the {side.transformed} of {of}")
        _label_both(axes[:, column], side, mixed=column == 1)
    colour_bar(figure, above, list(axes[0]), "weight, output per unit of input")
    colour_bar(figure, below, list(axes[1]), "|DFT| / √n, unit of the weight")
    name_figure(figure, _title(layer), _about(layer))
    return figure


def modulus_of_dft(weight: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """The modulus of the unitary Fourier transform along one axis.

    Args:
        weight: ``(out, in)``.
        axis: Which is transformed.

    Returns:
        At frequencies from 0 to n/2, of the same unit as the weight.
    """
    return np.asarray(np.abs(np.fft.rfft(weight, axis=axis, norm="ortho")))


def _extent(
    transform: NDArray[np.float64], mixed: int
) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of the image, with its pixels at whole numbers."""
    rows, columns = transform.shape
    if mixed == 0:
        return -0.5, columns - 0.5, rows - 0.5, -0.5
    # frequencies increase upwards, as they do in other pictures of spectra
    return -0.5, columns - 0.5, -0.5, rows - 0.5


def _label_both(axes: NDArray[np.object_], side: _Side, *, mixed: bool) -> None:
    """The labels of one column: the weight above, its transform below."""
    x, y = side.x, side.y
    if mixed:
        x, y = (x, side.smooth) if side.mixed == 0 else (side.smooth, y)
    transformed = "frequency, periods over the {}s"
    frequency = transformed.format(side.x if side.mixed == 0 else side.y)
    above: Axes = axes[0]
    below: Axes = axes[1]
    label(above, x, y)
    label(below, frequency, y) if side.mixed == 0 else label(below, x, frequency)
    for panel in (above, below):
        quiet(panel, framed=True)
        whole_ticks(panel)


def _title(layer: DescrambledLayer) -> str:
    mixed = "its outputs" if layer.side == "out" else "its inputs"
    return f"{shown(layer.layer)}, step {layer.step:,}: {mixed} descrambled"


def _about(layer: DescrambledLayer) -> str:
    """Where P comes from and what it gains."""
    found = layer.descrambling
    centred = ", centred" if layer.centred else ""
    operator = "your matrix" if layer.operator == "custom" else layer.operator
    before, after = found.identity_cost, found.cost
    ratio = before / after if after > 0 else 0.0
    times = f"{ratio:,.0f}" if ratio > 100 else f"{ratio:.3g}"
    fallen = f", {times} times less" if after > 0 else ""
    return (
        f"{_SOURCES[layer.data]}{centred}; roughness ({operator}) "
        f"{before:.3g} before, {after:.3g} after{fallen}"
    )
