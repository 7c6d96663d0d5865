"""The view of a run in a notebook's cell, in a real browser."""

import json
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

import pytest

from svdhooks.analysis.notebook import view
from svdhooks.sinks.memory import MemorySink
from tests.browser.chromium import FOUND, Tab, browser
from tests.logs import meta_record, run_record, step_records
from tests.unit.web.hostile import HOSTILE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOUND is None, reason="needs Chromium"),
]

VSCODE = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' https://file.test; "
    "style-src 'unsafe-inline'; img-src https: data:; child-src https: data:"
)
"""The policy of VS Code's notebooks: no modules from ``data:`` URLs."""

INSIDE = "document.querySelector('iframe').contentDocument"
DRAWN = (
    "document.querySelector('iframe')?.contentDocument?.documentElement?.dataset.drawn"
)
COLOURS = f"""[...{INSIDE}.querySelectorAll('canvas:not(.over)')].map(c => {{
  const pixels = new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer);
  return new Set(pixels).size;
}})"""
LOOKED_AT = f"""[
  {INSIDE}.querySelector('.layerview h2').textContent,
  {INSIDE}.querySelector('.stepnow').textContent,
  {INSIDE}.querySelector('#section-map select').value,
]"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def remembered(steps: range, names: tuple[str, ...]) -> MemorySink:
    memory = MemorySink()
    memory.write([meta_record(list(names))])
    for step in steps:
        memory.write([
            run_record(step, loss=1.0 / (1 + step)),
            *step_records(step, names),
        ])
    return memory


def opened(tab: Tab, folder: Path, html: str, *, dark: bool = False) -> None:
    """A page that shows a cell as JupyterLab does, with the policy of VS Code."""
    page = (
        "<!doctype html><html><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{escape(VSCODE)}"></head>'
        f"<body data-jp-theme-light='{str(not dark).lower()}' style='"
        f"background:{'#111' if dark else '#fff'}'>"
        f"<div id='cell' style='width:880px'>{html}</div></body></html>"
    )
    path = folder / "notebook.html"
    path.write_text(page, encoding="utf-8")
    tab.problems.clear()
    tab.requests.clear()
    tab.send("Page.navigate", url="about:blank")
    tab.send("Page.navigate", url=path.as_uri())
    tab.wait(DRAWN)


@pytest.mark.parametrize("dark", [False, True])
def test_the_view_is_drawn_in_the_colours_of_the_notebook(
    tab: Tab, tmp_path: Path, dark: bool
) -> None:
    memory = remembered(range(8), ("body.0", "body.1", "head"))
    opened(tab, tmp_path, view(memory)._repr_html_(), dark=dark)
    colours = tab.evaluate(COLOURS)
    assert len(colours) >= 5
    assert min(colours) > 2
    ground = tab.evaluate(f"getComputedStyle({INSIDE}.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", ground))) > 3 * 128
    assert light != dark
    # the table beside it is for places without frames
    assert tab.evaluate("document.querySelector('#cell table').offsetParent") is None
    assert tab.problems == []
    assert [
        url for url in tab.requests if not url.startswith(("file:", "about:"))
    ] == []


def test_the_colours_follow_the_notebooks_switch(tab: Tab, tmp_path: Path) -> None:
    memory = remembered(range(8), ("body.0", "head"))
    opened(tab, tmp_path, view(memory)._repr_html_())
    tab.evaluate("document.body.dataset.jpThemeLight = 'false'")
    tab.wait(f"{INSIDE}.documentElement.dataset.theme === 'dark'")
    assert min(tab.evaluate(COLOURS)) > 2


def test_what_is_looked_at_outlives_a_redraw(tab: Tab, tmp_path: Path) -> None:
    memory = remembered(range(8), ("body.0", "body.1", "head"))
    shown = view(memory)
    opened(tab, tmp_path, shown._repr_html_())
    first = tab.evaluate(LOOKED_AT)
    tab.evaluate(f"""(() => {{
      const choose = (select, value) => {{
        select.value = value; select.dispatchEvent(new Event('change')); }};
      choose({INSIDE}.querySelector('#section-layer select'), 'head');
      choose({INSIDE}.querySelector('#section-map select'), 'weight_effective_rank');
      {INSIDE}.querySelector('[aria-label="Earlier record"]').click();
    }})()""")
    chosen = tab.evaluate(LOOKED_AT)
    assert chosen == ["head", "step 6", "weight_effective_rank"]
    assert all(a != b for a, b in zip(first, chosen, strict=True))
    memory.write([run_record(8), *step_records(8, ("body.0", "body.1", "head"))])
    redrawn(tab, shown._repr_html_())
    assert tab.evaluate(LOOKED_AT) == chosen
    assert "9 records" in tab.evaluate(f"{INSIDE}.body.textContent")
    assert tab.problems == []


def test_who_looks_at_the_last_step_sees_the_next_one(tab: Tab, tmp_path: Path) -> None:
    memory = remembered(range(8), ("body.0", "head"))
    shown = view(memory, "head")
    opened(tab, tmp_path, shown._repr_html_())
    assert tab.evaluate(LOOKED_AT)[:2] == ["head", "step 7"]
    memory.write([run_record(8), *step_records(8, ("body.0", "head"))])
    redrawn(tab, shown._repr_html_())
    assert tab.evaluate(LOOKED_AT)[:2] == ["head", "step 8"]


def test_names_stay_names(tab: Tab, tmp_path: Path) -> None:
    memory = remembered(range(4), HOSTILE)
    opened(tab, tmp_path, view(memory)._repr_html_())
    for place in range(len(HOSTILE)):
        tab.evaluate(f"""(() => {{
          const s = {INSIDE}.querySelector('#section-layer select');
          s.selectedIndex = {place}; s.dispatchEvent(new Event('change')); }})()""")
    for window in ("window", "document.querySelector('iframe').contentWindow"):
        assert tab.evaluate(f"{window}.hacked") is None
        assert tab.evaluate(f"{window}.document.images.length") == 0
    assert tab.problems == []


def redrawn(tab: Tab, html: str) -> None:
    """The cell's output is replaced by another, as a display handle does."""
    tab.evaluate(f"document.querySelector('#cell').innerHTML = {json.dumps(html)}")
    tab.wait(DRAWN)
