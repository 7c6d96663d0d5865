"""The report's page in a real browser: it draws, it obeys, and names stay names."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from svdhooks.web.embedding import embedded_page
from svdhooks.web.page import PageData
from tests.browser.chromium import FOUND, Tab, browser
from tests.unit.web.hostile import HOSTILE
from tests.unit.web.made import made

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOUND is None, reason="needs Chromium"),
]

COLOURS = """[...document.querySelectorAll('canvas:not(.over)')].map(c => {
  const pixels = new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer);
  return new Set(pixels).size;
})"""
"""How many colours each canvas has; an empty one has 1."""

LAYER = "document.querySelector('.layerview h2').textContent"
STEP = "document.querySelector('.stepnow').textContent"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def opened(tab: Tab, tmp_path: Path) -> Iterator[tuple[Tab, Path]]:
    """A page of one invented run, open; at the end nothing has gone wrong in it."""
    tab.problems.clear()
    tab.requests.clear()
    path = write(tmp_path, made())
    tab.open(path)
    yield tab, path
    assert tab.problems == []


def write(folder: Path, page: PageData) -> Path:
    path = folder / "report.html"
    path.write_text(embedded_page(page.tree["title"], page), encoding="utf-8")
    return path


def test_every_canvas_is_drawn(opened: tuple[Tab, Path]) -> None:
    tab, _ = opened
    colours = tab.evaluate(COLOURS)
    assert len(colours) >= 12
    assert min(colours) > 2


def test_a_canvas_that_is_not_drawn_would_be_seen(opened: tuple[Tab, Path]) -> None:
    tab, _ = opened
    tab.evaluate("document.body.append(document.createElement('canvas'))")
    assert min(tab.evaluate(COLOURS)) == 1


def test_an_error_in_the_page_would_be_seen(tab: Tab, tmp_path: Path) -> None:
    path = write(tmp_path, made())
    tab.open(path)
    tab.problems.clear()
    tab.evaluate(
        "setTimeout(() => { throw new Error('planted'); }); console.error('said')"
    )
    tab.wait("new Promise(done => setTimeout(() => done(true), 50))")
    assert any("planted" in problem for problem in tab.problems)
    assert any("said" in problem for problem in tab.problems)


def test_nothing_is_asked_of_the_network(opened: tuple[Tab, Path]) -> None:
    tab, path = opened
    asked = {url.partition(",")[0] for url in tab.requests} - {"about:blank"}
    assert asked == {path.as_uri(), "data:text/javascript;base64"}


@pytest.mark.parametrize("width", [390, 820, 1280])
def test_nothing_stands_out_at_the_side(opened: tuple[Tab, Path], width: int) -> None:
    tab, path = opened
    tab.open(path, width=width)
    assert tab.evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("width", [390, 1280])
def test_hostile_names_are_text(tab: Tab, tmp_path: Path, width: int) -> None:
    tab.problems.clear()
    tab.requests.clear()
    path = write(tmp_path, made(hostile=True, runs=2))
    tab.open(path, width=width)
    tab.evaluate(
        "document.querySelectorAll('details').forEach(d => { d.open = true; })"
    )
    for name in range(len(HOSTILE)):
        tab.evaluate(f"""(() => {{
          const s = [...document.querySelectorAll('.layerview select')][0];
          s.selectedIndex = {name}; s.dispatchEvent(new Event('change')); }})()""")
    assert tab.evaluate("window.hacked") is None
    assert tab.evaluate("document.images.length") == 0
    # the map of imports, the data twice, and what starts the page
    assert tab.evaluate("document.scripts.length") == 4
    text = tab.evaluate("document.body.textContent")
    for name in (HOSTILE[0], HOSTILE[1], HOSTILE[2], HOSTILE[4]):
        assert name in text
    assert "\u202e" not in tab.evaluate("document.querySelector('main').textContent")
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert all(
        url.startswith(("file:", "data:text/javascript", "about:"))
        for url in tab.requests
    )
    assert tab.problems == []


def test_arrows_in_the_map_move_layer_and_step(opened: tuple[Tab, Path]) -> None:
    tab, _ = opened
    assert tab.evaluate(LAYER) == "head"
    tab.evaluate("document.querySelector('#section-map canvas.over').focus()")
    tab.press("ArrowUp")
    tab.wait(f"{LAYER}.endsWith('mlp.down')")
    last = tab.evaluate(STEP)
    tab.press("ArrowLeft")
    tab.wait(f"{STEP} !== {last!r}")
    tab.press("End")
    tab.wait(f"{STEP} === {last!r}")


def test_arrows_in_the_layer_view_move_too(opened: tuple[Tab, Path]) -> None:
    tab, _ = opened
    tab.evaluate("document.querySelector('.layerview').focus()")
    tab.press("ArrowUp")
    tab.wait(f"{LAYER}.endsWith('mlp.down')")
    tab.press("ArrowDown")
    tab.wait(f"{LAYER} === 'head'")


def test_a_click_on_the_map_chooses(opened: tuple[Tab, Path]) -> None:
    tab, _ = opened
    tab.evaluate("document.querySelector('#section-map').scrollIntoView()")
    box = tab.evaluate(
        "(b => [b.x, b.y, b.width])(document.querySelector('#section-map canvas.over').getBoundingClientRect())"
    )
    tab.click(box[0] + 0.6 * box[2], box[1] + 8)
    tab.wait(f"{LAYER} === 'embed'")
    assert tab.evaluate(STEP) not in {"step 0", "step 3,000"}


def test_the_address_restores_the_view(opened: tuple[Tab, Path]) -> None:
    tab, path = opened
    tab.open(
        path,
        "#layer=embed&step=1525&measure=output_effective_rank&scale=start&theme=dark",
    )
    assert tab.evaluate(LAYER) == "embed"
    assert tab.evaluate(STEP) == "step 1,525"
    assert (
        tab.evaluate("document.querySelector('#section-map select').value")
        == "output_effective_rank"
    )
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    tab.evaluate("document.querySelector('.layerview').focus()")
    tab.press("ArrowDown")
    tab.wait(
        "location.hash.includes('attn.q_proj') && location.hash.includes('scale=start')"
    )


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_follow_the_system_and_the_switch(
    opened: tuple[Tab, Path], dark: bool
) -> None:
    tab, path = opened
    ground = (
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    )
    tab.open(path, dark=dark)
    assert (tab.evaluate(ground) < 60) is dark
    tab.evaluate(
        f"[...document.querySelectorAll('.top button')].find(b => b.textContent === '{'Light' if dark else 'Dark'}').click()"
    )
    assert (tab.evaluate(ground) < 60) is not dark
    assert min(tab.evaluate(COLOURS)) > 2


def test_the_slider_plays(opened: tuple[Tab, Path]) -> None:
    tab, _ = opened
    tab.evaluate("document.querySelector('.stepper .play').click()")
    tab.wait(f"{STEP} !== 'step 3,000' && {STEP} !== 'step 0'")
    tab.evaluate("document.querySelector('.stepper .play').click()")
    still = tab.evaluate(STEP)
    tab.wait("new Promise(done => setTimeout(() => done(true), 400))")
    assert tab.evaluate(STEP) == still


def test_paper_is_light_and_its_canvases_fit(opened: tuple[Tab, Path]) -> None:
    tab, path = opened
    tab.open(path, dark=True)
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    paper = 182 / 25.4 * 96
    widest = "Math.max(...[...document.querySelectorAll('canvas')].map(c => c.getBoundingClientRect().width))"
    assert tab.evaluate(widest) <= paper
    assert tab.evaluate("getComputedStyle(document.body).color") == "rgb(29, 35, 41)"
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate(widest) > paper
    assert len(tab.send("Page.printToPDF", printBackground=True)["data"]) > 50_000


def test_what_a_run_lacks_is_left_out(tab: Tab, tmp_path: Path) -> None:
    page = made(records=1)
    run = page.tree["runs"][0]
    for name in (
        "alarms",
        "pairs",
        "internal",
        "scalars",
        "run_measures",
        "failures",
        "skipped",
        "notes",
    ):
        run[name] = []
    for name in ("spectra", "local_rank", "ledger", "settings", "hparams"):
        run[name] = {}
    tab.problems.clear()
    tab.open(write(tmp_path, page))
    headings = tab.evaluate(
        "[...document.querySelectorAll('h2, h3')].filter(h => h.offsetParent).map(h => h.textContent)"
    )
    assert "Values of all layers" in headings
    assert not {
        "Rank map",
        "Alarms",
        "Failures",
        "Not watched",
        "What the recording cost",
        "About this run",
    } & set(headings)
    assert tab.problems == []


def test_a_page_without_scripts_tells_the_verdict(tab: Tab, tmp_path: Path) -> None:
    path = write(tmp_path, made())
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.send("Page.navigate", url=path.as_uri())
        tab.wait("document.readyState === 'complete'")
        shown = tab.evaluate("document.body.innerText")
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)
    assert "One layer lost most of its rank" in shown
    assert "JavaScript, which is off" in shown
