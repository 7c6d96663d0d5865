"""What comes back when U and V are learned again: overlap with the original over k."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from svdhooks.analysis.plots._canvas import (
    PALETTE,
    SMALL,
    Axes,
    Figure,
    Line2D,
    label,
    name_figure,
    new_figure,
    panel_title,
    quiet,
    shown,
)

# what an arm is called, in the order of the legend; the colour follows the order
_ARMS = {
    "fixed_s": "S fixed, trained",
    "free": "W free, trained",
    "perturbed": "S fixed, from near by",
    "flat_s": "S flat, trained",
    "shuffled_s": "S of other layers, trained",
    "haar": "Haar, untrained",
}
_MARKERS = ("o", "s", "^", "D", "v", "x", "P")
_SIDES = {
    "left": "left vectors",
    "right": "right vectors",
    "signal": "signals",
    "units": "matched units",
    "adjacency": "adjacency",
}
# up to here the ks are drawn evenly
_LINEAR = 24
_WANTED = ("arm", "layer", "side", "k", "mean", "low", "high")
Row = Mapping[str, Any]


def plot_refit(rows: Iterable[Row]) -> Figure:
    """Draw the overlap with the original over k, a panel for each layer and side.

    Lines are means over seeds, bands their bootstrap intervals. The dashed line is what
    chance gives. Scores that have no k, of the adjacency or of the function, are points
    with bars, side by side.

    Args:
        rows: From ``RefitResult.intervals()``: mappings with arm, layer, side, k, mean,
            low, high, and chance (None or NaN where there is none).

    Returns:
        A figure, not registered with pyplot.

    Raises:
        ImportError: If matplotlib is not installed: ``svdhooks[analysis]``.
        ValueError: If there are no rows, or one lacks a field.
    """
    table = list(rows)
    _check(table)
    panels = _panels(table)
    arms = _arms(table)
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    lines = math.ceil(len(panels) / columns)
    figure = new_figure(2.2 + 3.0 * columns, 0.8 + 2.6 * lines)
    axes = figure.subplots(lines, columns, sharey=True, squeeze=False)
    logarithmic = max((row["k"] or 0) for row in table) > _LINEAR
    lowest = min(0.0, *(float(row["low"]) for row in table))
    for place, (named, found) in enumerate(panels.items()):
        panel: Axes = axes.flat[place]
        _draw(panel, found, arms)
        panel_title(panel, _title(*named))
        if logarithmic and _is_curve(found):
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter("{x:g}")
    # shared by all panels
    axes[0, 0].set_ylim(max(lowest, -1.0) - 0.03, 1.03)
    for panel in axes.flat[len(panels) :]:
        panel.set_visible(False)
    for panel in axes[:, 0]:
        label(panel, panel.get_xlabel(), "similarity to the original, 1: equal")
    _draw_legend(figure, arms)
    name_figure(
        figure,
        "What comes back of the singular vectors",
        "Lines and points: means over seeds. Bands and bars: bootstrap intervals.",
    )
    return figure


def _check(rows: Sequence[Row]) -> None:
    if not rows:
        raise ValueError("Found no rows, expected those of RefitResult.intervals().")
    for row in rows:
        missing = [field for field in _WANTED if field not in row]
        if missing:
            raise ValueError(
                f"Found a row without {', '.join(missing)}: {dict(row)}. Expected rows of "
                "RefitResult.intervals(), not of its table."
            )


def _panels(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by layer and side, curves before single points, else in their own order."""
    panels: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        panels.setdefault((str(row["layer"]), str(row["side"])), []).append(row)
    order = sorted(panels, key=lambda panel: not _is_curve(panels[panel]))
    return {panel: panels[panel] for panel in order}


def _arms(rows: Sequence[Row]) -> list[str]:
    """Those that we know in our order, then the others in theirs."""
    found = dict.fromkeys(str(row["arm"]) for row in rows)
    return [
        *(arm for arm in _ARMS if arm in found),
        *(a for a in found if a not in _ARMS),
    ]


def _title(layer: str, side: str) -> str:
    name = shown(layer.replace("->", " → "), 28)
    # of the function as a whole the layer says what is compared
    return (
        name if side == "function" else f"{name}, {_SIDES.get(side, shown(side, 18))}"
    )


def _is_curve(rows: Sequence[Row]) -> bool:
    return len({row["k"] for row in rows if row["k"] is not None}) > 1


def _style(place: int) -> dict[str, Any]:
    """Colour and marker of an arm."""
    return {
        "color": PALETTE[place % len(PALETTE)],
        # another one once the colours come round again
        "marker": _MARKERS[(place + place // len(PALETTE)) % len(_MARKERS)],
        "ms": 4,
    }


def _draw(axes: Axes, rows: Sequence[Row], arms: Sequence[str]) -> None:
    """One panel."""
    curve = _is_curve(rows)
    for place, arm in enumerate(arms):
        own = [row for row in rows if row["arm"] == arm]
        if curve:
            _draw_curve(axes, own, _style(place))
        else:
            _draw_points(axes, own, _style(place), place)
    _draw_chance(axes, rows, curve=curve)
    if curve:
        label(axes, "k, leading vectors")
    else:
        axes.set_xticks([])
        axes.set_xlim(-0.7, len(arms) - 0.3)
    axes.grid(axis="y", lw=0.4, alpha=0.5)
    quiet(axes)


def _draw_curve(axes: Axes, rows: Sequence[Row], style: Mapping[str, Any]) -> None:
    ordered = sorted(rows, key=lambda row: row["k"])
    k = [row["k"] for row in ordered]
    low, high = ([float(row[field]) for row in ordered] for field in ("low", "high"))
    axes.fill_between(k, low, high, color=style["color"], alpha=0.18, lw=0)
    axes.plot(k, [float(row["mean"]) for row in ordered], lw=1.3, **style)


def _draw_points(
    axes: Axes, rows: Sequence[Row], style: Mapping[str, Any], place: int
) -> None:
    for row in rows:
        mean = float(row["mean"])
        # a bootstrap interval of few seeds may miss the mean by a rounding error
        reach = [[max(mean - row["low"], 0.0)], [max(row["high"] - mean, 0.0)]]
        axes.errorbar([place], [mean], yerr=reach, lw=1.3, capsize=3, **style)


def _draw_chance(axes: Axes, rows: Sequence[Row], *, curve: bool) -> None:
    """The level of chance over k, or across the panel."""
    levels = {
        row["k"]: float(row["chance"])
        for row in rows
        if row.get("chance") is not None and not math.isnan(row["chance"])
    }
    if not levels:
        return
    style: dict[str, Any] = {"color": "black", "lw": 1.0, "ls": "--", "zorder": 3}
    if curve:
        ks = sorted(levels)
        axes.plot(ks, [levels[k] for k in ks], **style)
    else:
        axes.axhline(next(iter(levels.values())), **style)


def _draw_legend(figure: Figure, arms: Sequence[str]) -> None:
    """Of the whole figure, at its right."""
    handles = [
        Line2D([], [], lw=1.3, label=_ARMS.get(arm, shown(arm, 24)), **_style(place))
        for place, arm in enumerate(arms)
    ]
    chance = Line2D([], [], color="black", lw=1.0, ls="--", label="chance")
    figure.legend(
        handles=[*handles, chance],
        loc="outside right upper",
        frameon=False,
        fontsize=SMALL,
    )
