"""What every picture shares: an empty figure, colours, and names that are safe to show.

Figures are made without pyplot, so that none is registered anywhere and no setting of
the process changes.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

try:
    import matplotlib as mpl
    from matplotlib import font_manager
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ImportError(
        "svdhooks.analysis.plots needs matplotlib: pip install 'svdhooks[analysis]'"
    ) from error

# matplotlib's names too: it is asked for here alone, in one way
__all__ = [
    "CELLS",
    "LARGE",
    "MUTED",
    "NORMAL",
    "PALETTE",
    "POSITIVE",
    "SIGNED",
    "SMALL",
    "Axes",
    "Colorbar",
    "Figure",
    "Line2D",
    "LineCollection",
    "LinearSegmentedColormap",
    "LogNorm",
    "Normalize",
    "Rectangle",
    "colour_bar",
    "from_zero",
    "in_two_lines",
    "label",
    "largest",
    "mpl",
    "name_figure",
    "new_figure",
    "panel_title",
    "pooled",
    "quiet",
    "shown",
    "symmetric",
    "whole_ticks",
]

# Okabe and Ito's, told apart by colour-blind eyes; black last, for what is a reference
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# red to blue: the two ends differ in hue for every common kind of colour blindness
SIGNED, POSITIVE = "RdBu_r", "viridis"
MUTED = "0.45"
SMALL, NORMAL, LARGE = 8.0, 9.0, 10.0
# the most rows and columns of a matrix that are drawn one by one
CELLS = 400


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, which arranges its panels by itself."""
    return Figure(figsize=(width, height), layout="constrained")


def name_figure(figure: Figure, title: str, below: str = "") -> None:
    """A bold title at the top left, and a quiet line at the bottom left.

    Args:
        figure: Which.
        title: Already safe to show.
        below: The same; empty: no line.
    """
    figure.suptitle(
        title, x=0.01, ha="left", fontsize=LARGE, fontweight="bold", wrap=False
    )
    if below:
        figure.supxlabel(below, x=0.01, ha="left", fontsize=SMALL, color=MUTED)


def panel_title(axes: Axes, title: str) -> None:
    """The title of one panel, at its left edge."""
    axes.set_title(title, loc="left", fontsize=NORMAL)


def quiet(axes: Axes, *, framed: bool = False) -> None:
    """Small tick labels; no frame at the top and at the right but around images."""
    axes.tick_params(labelsize=SMALL, length=3)
    axes.spines[["top", "right"]].set_visible(framed)


def label(axes: Axes, x: str = "", y: str = "") -> None:
    """The labels of both axes."""
    axes.set_xlabel(x, fontsize=NORMAL)
    axes.set_ylabel(y, fontsize=NORMAL)


_LONG_ENOUGH = 30
"""Characters of a name that have room for its beginning too."""


def shown(name: str, length: int = 40) -> str:
    """A layer's name as it can be drawn.

    Dollar signs would start formulas, control characters and characters that the font
    lacks would warn or draw boxes, and a long name would push the panels away.

    Args:
        name: Any string.
        length: The most characters; of a longer name the end is kept, which tells
            layers apart, and, if that is much, a little of the beginning.

    Returns:
        One line; "?" for what cannot be drawn.
    """
    single = " ".join(name.split())
    drawable = "".join(c if _drawable(c) else "?" for c in single)
    if len(drawable) > length:
        first = (length - 1) // 3 if length >= _LONG_ENOUGH else 0
        drawable = f"{drawable[:first]}…{drawable[first + 1 - length :]}"
    return drawable.replace("$", r"\$")


def in_two_lines(name: str, length: int) -> str:
    """A layer's name as it can be drawn above a narrow column.

    Args:
        name: Any string.
        length: The most characters of a line.

    Returns:
        One line, or two that part at a dot: the last line names the layer, the one
        above it tells which block it is of.
    """
    if len(name) <= length:
        return shown(name, length)
    # the first dot behind which the rest fits
    at = name.find(".", max(len(name) - length - 1, 0))
    if at <= 0:
        return shown(name, length)
    return f"{shown(name[: at + 1], length)}\n{shown(name[at + 1 :], length)}"


def _drawable(character: str) -> bool:
    """Whether one of the chosen fonts has a glyph for it."""
    if character.isascii():
        return character.isprintable()
    fonts = (
        font_manager.findfont(font_manager.FontProperties(family=[family]))
        for family in mpl.rcParams["font.family"]
    )
    return any(
        font_manager.get_font(font).get_char_index(ord(character)) for font in fonts
    )


def largest(*arrays: ArrayLike) -> float:
    """The largest modulus of a finite entry; 1 if there is none, or all are zero."""
    tops = []
    for array in arrays:
        moduli = np.abs(np.asarray(array, dtype=np.float64))
        tops.append(float(np.max(moduli, initial=0.0, where=np.isfinite(moduli))))
    return max(tops, default=0.0) or 1.0


def symmetric(*arrays: ArrayLike) -> Normalize:
    """One scale for all of them, with zero in its middle."""
    top = largest(*arrays)
    return Normalize(-top, top)


def from_zero(*arrays: ArrayLike) -> Normalize:
    """One scale for all of them, from zero."""
    return Normalize(0.0, largest(*arrays))


def pooled(
    matrix: NDArray[np.float64], cells: int = CELLS
) -> tuple[NDArray[np.float64], tuple[float, float, float, float]]:
    """The largest entry of every block, so that no single one is lost to the pixels.

    Args:
        matrix: ``(rows, columns)``, not negative.
        cells: The most rows and columns of the result.

    Returns:
        The matrix itself where it is small enough; and left, right, bottom and top of its
        image in the rows and columns of the matrix. The last block may reach beyond.
    """
    blocks = [max(1, -(-size // cells)) for size in matrix.shape]
    rows, columns = (
        np.arange(0, size, block)
        for size, block in zip(matrix.shape, blocks, strict=True)
    )
    found = np.maximum.reduceat(matrix, rows, axis=0)
    found = np.asarray(np.maximum.reduceat(found, columns, axis=1))
    bottom, right = (
        n * block - 0.5 for n, block in zip(found.shape, blocks, strict=True)
    )
    return found, (-0.5, right, bottom, -0.5)


def whole_ticks(axes: Axes) -> None:
    """Ticks at whole numbers, where both axes count something."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def colour_bar(
    figure: Figure, image: ScalarMappable, axes: Any, title: str
) -> Colorbar:
    """A slim colour bar beside one panel or several.

    Args:
        figure: Theirs.
        image: What the colours mean.
        axes: One panel, or a list of them.
        title: With the unit.

    Returns:
        The bar.
    """
    bar = figure.colorbar(image, ax=axes, pad=0.015, aspect=28)
    bar.set_label(title, fontsize=NORMAL)
    bar.ax.tick_params(labelsize=SMALL, length=3)
    bar.outline.set_visible(False)
    return bar
