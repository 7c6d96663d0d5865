"""A run in a frame of a notebook's cell: HTML that the page around cannot clash with."""

from html import escape
from typing import Any

from markupsafe import Markup

from svdhooks.web.embedding import policy, rendered, static, utf8
from svdhooks.web.inlining import inlined
from svdhooks.web.packing import json_text, packed
from svdhooks.web.page import PageData

ENTRY = "notebook.js"
_STYLES = ("uPlot.min.css", "style.css", "notebook.css")
_LONGEST_TITLE = 300

# where frames are taken out (a notebook that is not trusted, GitHub) the table is seen
_AROUND = """<div class="svdhooks-cell">
<style>.svdhooks-cell>iframe~div{{display:none}}</style>
{frame}
<div>{instead}</div>
</div>"""


def notebook_page(title: str, data: PageData) -> str:
    """Make the document that stands in the frame.

    Style, program and data are inside; a policy in it forbids it to load anything or to
    run any script but its own. It runs under the notebook's policy, too.

    Args:
        title: Of the document.
        data: What is shown: one run, and ``"cell"`` with ``key`` (what is looked at is
            remembered under it), ``layer`` (None or the first one shown), ``records``.

    Returns:
        HTML.
    """
    manifest, blob = packed(data.arrays)
    program = inlined(ENTRY)
    return rendered(
        "notebook.html",
        title=utf8(title)[:_LONGEST_TITLE],
        policy=policy(program),
        style=Markup("\n".join(map(static, _STYLES))),
        program=Markup(program),
        tree=Markup(json_text({"tree": data.tree, "manifest": manifest})),
        blob=Markup(blob),
    )


def framed(page: str, title: str, height: int, instead: str) -> str:
    """Put a document into a frame.

    Args:
        page: The document.
        title: What the frame is called, for those who cannot see it.
        height: Of the frame, in CSS pixels.
        instead: HTML that is seen where frames are taken out.

    Returns:
        HTML for a notebook's cell.
    """
    attributes: dict[str, Any] = {
        "title": utf8(title)[:_LONGEST_TITLE],
        "style": f"width:100%;height:{height}px;border:0;border-radius:8px",
        "loading": "eager",
    }
    told = "".join(f' {name}="{escape(text)}"' for name, text in attributes.items())
    return _AROUND.format(
        frame=f"<iframe{told} srcdoc='{_quoted(page)}'></iframe>", instead=instead
    )


def _quoted(text: str) -> str:
    """Text for an attribute in single quotes: double ones, of which there are thousands, stay."""
    for character, name in (("&", "amp"), ("<", "lt"), (">", "gt"), ("'", "#39")):
        text = text.replace(character, f"&{name};")
    return text
