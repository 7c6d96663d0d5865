"""The descrambler itself: which direction of a layer goes to which smooth mode."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from svdhooks.analysis.descrambling import DescrambledLayer
from svdhooks.analysis.plots._canvas import (
    MUTED,
    PALETTE,
    POSITIVE,
    SIGNED,
    SMALL,
    Axes,
    Figure,
    Normalize,
    colour_bar,
    label,
    largest,
    name_figure,
    new_figure,
    panel_title,
    quiet,
    shown,
    symmetric,
    whole_ticks,
)
from svdhooks.linalg.descrambling import Descrambling

# modes that are drawn as curves, and as rows of the map of inner products
CURVES, MODES = 6, 20


def plot_descrambler(layer: DescrambledLayer) -> Figure:
    """Draw the descrambler P = T Uᵀ: principal directions beside smooth modes.

    From left to right: the leading columns of U, the principal directions of the layer,
    as points over its units, with the columns of T to which P takes them as lines, each
    pair on its own scale; P itself; |Tᵀ U|, which is diagonal where the units already are
    in a smooth order, and about 1/√n everywhere where they are in none; the eigenvalues
    of the moment, those inside small gaps hollow: there only the spans mean anything.

    Args:
        layer: From `svdhooks.analysis.descrambled`.

    Returns:
        A figure, not registered with pyplot.

    Raises:
        ImportError: If matplotlib is not installed: ``svdhooks[analysis]``.
    """
    found = layer.descrambling
    figure = new_figure(12.0, 5.6)
    grid = figure.add_gridspec(2, 3, width_ratios=(1.0, 1.05, 1.05))
    _draw_curves(figure.add_subplot(grid[:, 0]), found)
    _draw_p(figure, figure.add_subplot(grid[:, 1]), found)
    _draw_products(figure, figure.add_subplot(grid[0, 2]), found)
    _draw_eigenvalues(figure.add_subplot(grid[1, 2]), layer)
    name_figure(
        figure,
        f"{shown(layer.layer)}, step {layer.step:,}: the descrambler of its "
        f"{'outputs' if layer.side == 'out' else 'inputs'}, P = T Uᵀ",
        f"‖D P S‖²: {found.identity_cost:.4g} at P = I, {found.cost:.4g} at P; "
        f"no orthogonal P is below {found.lower_bound:.4g} or above "
        f"{found.upper_bound:.4g}",
    )
    return figure


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.cpu().numpy(), dtype=np.float64)


def _draw_curves(axes: Axes, found: Descrambling) -> None:
    """The leading columns of U and of T below one another, each pair on its own scale."""
    U, T = _array(found.U), _array(found.T)
    units = np.arange(len(U))
    modes = range(min(CURVES, len(U)))
    for mode in modes:
        scale = 0.42 / largest(U[:, mode], T[:, mode])
        axes.axhline(mode, color=MUTED, lw=0.4, zorder=0)
        # the axis counts downwards
        axes.plot(units, mode - scale * T[:, mode], color=PALETTE[1], lw=1.2)
        axes.plot(units, mode - scale * U[:, mode], ".", color=PALETTE[0], ms=3.5)
    axes.set_yticks(modes)
    axes.set_ylim(len(modes) - 0.5, -0.5)
    panel_title(axes, "directions U (points), smooth modes T (lines)")
    label(axes, "unit", "mode")
    quiet(axes)


def _draw_p(figure: Figure, axes: Axes, found: Descrambling) -> None:
    P = _array(found.P)
    image = axes.imshow(P, cmap=SIGNED, norm=symmetric(P), aspect="auto")
    panel_title(axes, "descrambler P")
    label(axes, "unit of the layer", "place in the smooth order")
    quiet(axes, framed=True)
    whole_ticks(axes)
    colour_bar(figure, image, axes, "entry, no unit")


def _draw_products(figure: Figure, axes: Axes, found: Descrambling) -> None:
    """|Tᵀ U| of the leading modes."""
    U, T = _array(found.U)[:, :MODES], _array(found.T)[:, :MODES]
    image = axes.imshow(
        np.abs(T.T @ U), cmap=POSITIVE, norm=Normalize(0.0, 1.0), aspect="auto"
    )
    panel_title(axes, "|Tᵀ U|: are the units in order?")
    label(axes, "principal direction", "smooth mode")
    quiet(axes, framed=True)
    whole_ticks(axes)
    colour_bar(figure, image, axes, "|cosine|")


def _draw_eigenvalues(axes: Axes, layer: DescrambledLayer) -> None:
    """The spectrum of the moment; hollow where only spans are told apart."""
    values = _array(layer.descrambling.eigenvalues)
    relative = values / values[0] if values[0] > 0 else values
    mixed = np.zeros(len(values), dtype=bool)
    for span in layer.spans:
        mixed[list(span)] = True
    modes = np.arange(len(values))
    # a rank-deficient moment ends in rounding errors of either sign
    floor = max(1e-12, float(relative[relative > 0].min(initial=1.0)))
    height = np.maximum(relative, floor)
    for chosen, face, name in (
        (~mixed, PALETTE[0], "told apart"),
        (mixed, "white", "only as a span"),
    ):
        if chosen.any():
            axes.plot(
                modes[chosen],
                height[chosen],
                "o",
                ms=3.5,
                color=PALETTE[0],
                mfc=face,
                label=name,
            )
    axes.set_yscale("log")
    panel_title(axes, "eigenvalues of the moment, relative to the largest")
    label(axes, "mode")
    axes.legend(frameon=False, fontsize=SMALL)
    quiet(axes)
