"""A run as HTML for a notebook's cell. Names are shown as text, whatever they are."""

from collections.abc import Sequence
from html import escape

from svdhooks.display.bounds import bounded_steps, sign_of
from svdhooks.display.overview import (
    Curve,
    Overview,
    Source,
    count,
    overview,
    title_of,
)
from svdhooks.display.plot import colours, plot, sparkline

_PLOTTED = 200
_FEW = 4

# every rule is about our own classes; notebooks style tables of their own accord
_STYLE = """
.svdhooks{font:13px/1.45 system-ui,sans-serif;color:inherit;max-width:100%}
.svdhooks p{margin:.25em 0}
.svdhooks .sh-title{overflow-wrap:anywhere}
.svdhooks .sh-quiet{opacity:.7}
.svdhooks .sh-scroll{max-height:26em;overflow:auto;margin:.4em 0}
.svdhooks table{border-collapse:collapse;margin:0;background:none;font-size:13px}
.svdhooks th,.svdhooks td{padding:2px 14px 2px 0;text-align:left;white-space:nowrap;
border:0;background:none;color:inherit;vertical-align:middle}
.svdhooks th{font-weight:600;white-space:normal;vertical-align:bottom}
.svdhooks .sh-many td,.svdhooks .sh-many th{padding-right:9px}
.svdhooks .sh-many td svg{width:46px;margin-right:5px}
.svdhooks .sh-right td,.svdhooks .sh-right th{text-align:right;padding:2px 4px 2px 14px}
.svdhooks tbody tr{border-top:1px solid rgba(128,128,128,.25);background:none}
.svdhooks td.sh-layer{font-family:ui-monospace,monospace;max-width:28em;
overflow:hidden;text-overflow:ellipsis}
.svdhooks .sh-number{font-variant-numeric:tabular-nums}
.svdhooks td svg{vertical-align:middle;margin-right:8px;opacity:.75}
.svdhooks .sh-failed{color:#d9534f;white-space:normal;min-width:14em}
.svdhooks .sh-key{display:inline-block;margin-right:14px;white-space:nowrap}
.svdhooks .sh-key i{display:inline-block;width:14px;height:3px;margin-right:5px;
vertical-align:middle;border-radius:2px}
.svdhooks .sh-ramp{display:inline-block;width:120px;height:8px;margin:0 6px;
border-radius:4px;vertical-align:middle}
"""


def html(
    source: Source, *, title: str = "", measure: str | None = None, rows: int = 100
) -> str:
    """A small table, and a plot if one is asked for.

    The table has a line per layer: first and last value of each headline measure with
    a sparkline, and what failed. Colours follow those of the page around it.

    Args:
        source: A `RunLog` or a `MemorySink`.
        title: What the run is called.
        measure: One of ``source.metrics``: also draw it over the steps, all layers.
        rows: Largest number of layers in the table.

    Returns:
        HTML that needs nothing else: no script, no file, no network.
    """
    shown = overview(source, rows)
    name = f"<strong>{escape(title)}</strong> " if title else ""
    parts = [f'<p>{name}<span class="sh-quiet">{escape(shown.heading)}</span></p>']
    if measure is not None:
        parts.append(_figure(source, measure))
    if shown.rows:
        parts.append(_table(shown))
    if shown.hidden:
        more = count(shown.hidden, "more layer")
        parts.append(f'<p class="sh-quiet">… and {more}</p>')
    if shown.cost:
        parts.append(f'<p class="sh-quiet">{escape(shown.cost)}</p>')
    return wrapped(parts)


def wrapped(parts: Sequence[str]) -> str:
    """Pieces of HTML with the style that they need."""
    return f'<div class="svdhooks"><style>{_STYLE}</style>{"".join(parts)}</div>'


def _table(shown: Overview) -> str:
    failed = any(row.failed for row in shown.rows)
    heads = ["layer", *map(title_of, shown.measures), *(["status"] if failed else [])]
    lines = []
    for row in shown.rows:
        cells = [
            f'<td class="sh-layer" title="{escape(row.layer)}">{escape(row.layer)}</td>',
            *(_cell(curve) for curve in row.curves),
        ]
        if failed:
            cells.append(f'<td class="sh-failed">{escape(row.failed)}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    many = ' class="sh-many"' if len(shown.measures) > _FEW else ""
    return (
        f'<div class="sh-scroll"><table{many}><thead><tr>'
        f"{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(curve: Curve) -> str:
    return (
        f'<td class="sh-number">{sparkline(curve)}{escape(" → ".join(curve.ends))}</td>'
    )


def _figure(source: Source, measure: str) -> str:
    """The plot of one measure with the names of its curves."""
    curves = [
        (name, Curve(*source.series(name, measure)))
        for name in (source.layers if measure in source.metrics else ())
    ]
    named = [(name, curve) for name, curve in curves if len(curve.steps)]
    kept = named[:: len(named) // _PLOTTED + 1]
    drawn = plot(kept, f"{title_of(measure)} of {count(len(kept), 'layer')}")
    sketched = bounded_steps(source.events) if sign_of(measure) else {}
    sign = f" ({sign_of(measure).strip()}: by random directions)" if sketched else ""
    return f"<p>{escape(title_of(measure))}{sign}</p>{drawn}{key(kept)}"


def key(named: list[tuple[str, Curve]]) -> str:
    """Which colour is whose: names if there are few, else the order in the model."""
    if not named:
        return ""
    shades = colours(len(named))
    if shades[0].startswith("#"):
        keys = [
            f'<span class="sh-key"><i style="background:{shade}"></i>'
            f"{escape(name)}</span>"
            for (name, _), shade in zip(named, shades, strict=True)
        ]
        return f"<p>{''.join(keys)}</p>"
    ramp = ",".join(shades[:: max(len(shades) // 8, 1)])
    return (
        f"<p>{escape(named[0][0])}"
        f'<span class="sh-ramp" style="background:linear-gradient(90deg,{ramp})"></span>'
        f"{escape(named[-1][0])} "
        f'<span class="sh-quiet">({count(len(named), "layer")}; point at a line for '
        "its name)</span></p>"
    )
