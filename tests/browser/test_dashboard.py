"""The tab in a real TensorBoard and a real browser, under TensorBoard's own policy."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from svdhooks.sinks.tensorboard import TensorBoardSink
from tests.browser.chromium import FOUND, Tab, browser
from tests.browser.tensorboard_tab import Frame, tensorboard
from tests.logs import meta_record, step_records, write_run
from tests.unit.web.hostile import HOSTILE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOUND is None, reason="needs Chromium"),
]

LAYERS = ("embed", "blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp")
COLOURS = """[...document.querySelectorAll('canvas:not(.over)')].map(c => {
  const pixels = new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer);
  return new Set(pixels).size;
})"""
LAYER = "document.querySelector('.layerview h2')?.textContent"
STEP = "document.querySelector('.stepnow')?.textContent"
STATE = "document.querySelector('.tabtitle .note')?.textContent"
TITLE = "document.querySelector('h1')?.textContent"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs to look at; one of them is still growing."""
    path = tmp_path_factory.mktemp("logs") / "runs"
    write_run(path / "first", range(0, 60, 5), LAYERS)
    write_run(path / "second", range(0, 60, 5), LAYERS)
    names = [name for name in HOSTILE if len(name) < 200 and not {*name} & {*"/\0"}]
    write_run(path / "hostile", range(3), HOSTILE)
    for name in names:
        write_run(path / name.replace("\n", " "), range(3))
    return path


@pytest.fixture(scope="module")
def served(logdir: Path) -> Iterator[str]:
    with tensorboard(logdir) as address:
        yield address


@pytest.fixture
def frame(tab: Tab, served: str) -> Iterator[Frame]:
    """The tab at the first run; at the end nothing has gone wrong in it."""
    found = Frame(tab, served)
    found.open("&p.svdhooks.run=first")
    yield found
    assert found.problems == []


def press(frame: Frame, key: str) -> None:
    frame.evaluate(
        "document.body.dispatchEvent("
        f"new KeyboardEvent('keydown', {{ key: {key!r}, bubbles: true }})), 1"
    )


def click(frame: Frame, text: str) -> None:
    frame.evaluate(
        "[...document.querySelectorAll('button')]"
        f".find(b => b.textContent === {text!r}).click(), 1"
    )


def test_every_canvas_is_drawn(frame: Frame) -> None:
    frame.wait(f"{TITLE} === 'first'")
    colours = frame.evaluate(COLOURS)
    assert len(colours) >= 6
    assert min(colours) > 2


def test_an_error_in_the_frame_would_be_seen(frame: Frame) -> None:
    frame.evaluate("setTimeout(() => { throw new Error('planted') }), 1")
    frame.tab.wait("new Promise(done => setTimeout(() => done(true), 50))")
    assert any("planted" in problem for problem in frame.problems)
    frame.tab.problems.clear()


def test_a_click_on_the_map_goes_to_layer_and_step(frame: Frame) -> None:
    frame.evaluate("""(() => {
      const map = document.querySelector('.heat.over');
      const box = map.getBoundingClientRect();
      const at = { clientX: box.right - 8, clientY: box.top + 4, bubbles: true };
      map.dispatchEvent(new MouseEvent('click', at));
      return 1;
    })()""")
    frame.wait(f"{LAYER} === 'embed'")
    frame.wait(f"{STEP} === 'step 55'")


def test_arrow_keys_go_through_layers_and_steps(frame: Frame) -> None:
    frame.wait(f"{LAYER} === 'blocks.0.mlp'")
    press(frame, "ArrowDown")
    frame.wait(f"{LAYER} === 'blocks.1.attn'")
    press(frame, "ArrowLeft")
    frame.wait(f"{STEP} === 'step 50'")
    press(frame, "ArrowUp")
    frame.wait(f"{LAYER} === 'blocks.0.mlp'")
    frame.wait(f"{STEP} === 'step 50'")


def test_a_link_restores_the_view(frame: Frame) -> None:
    press(frame, "ArrowDown")
    press(frame, "ArrowLeft")
    click(frame, "Of the start")
    frame.tab.wait("location.hash.includes('scale=start')")
    link = frame.tab.evaluate("location.hash")
    frame.open("&p.svdhooks.run=second")
    frame.wait(f"{TITLE} === 'second'")
    frame.open(link.removeprefix("#svdhooks"))
    frame.wait(f"{TITLE} === 'first'")
    frame.wait(f"{LAYER} === 'blocks.1.attn'")
    frame.wait(f"{STEP} === 'step 50'")
    pressed = (
        "[...document.querySelectorAll('[aria-pressed=true]')].map(b => b.textContent)"
    )
    assert "Of the start" in frame.evaluate(pressed)


def test_colours_follow_the_switch_of_tensorboard(frame: Frame) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = frame.evaluate(ground)
    frame.tab.evaluate("document.body.classList.add('dark-mode'), 1")
    frame.wait(f"{ground} !== {light!r}")
    # the ink on a chart too, not only the sheet
    assert frame.evaluate("document.documentElement.dataset.theme") == "dark"
    assert min(frame.evaluate(COLOURS)) > 2
    frame.tab.evaluate("document.body.classList.remove('dark-mode'), 1")
    frame.wait(f"{ground} === {light!r}")


def test_runs_are_held_against_each_other(frame: Frame) -> None:
    frame.evaluate("document.querySelector('.runs [data-key=tsecond]').click(), 1")
    frame.wait("document.body.textContent.includes('Against second')")
    click(frame, "Compare")
    frame.wait("document.querySelectorAll('.cards canvas').length >= 4")
    assert "times the value of second" in frame.evaluate("document.body.textContent")
    assert min(frame.evaluate(COLOURS)) > 2


def test_what_a_figure_shows_can_be_copied(frame: Frame) -> None:
    frame.evaluate("""(() => {
      navigator.clipboard.writeText = async (text) => { window.copied = text; };
      document.querySelector('.card .tools button').click();
      return 1;
    })()""")
    lines = frame.wait("window.copied").split("\r\n")
    assert lines[0].split(",")[:3] == ["", "0", "5"]
    assert [line.split(",")[0] for line in lines[1:]] == list(LAYERS)
    assert all(float(value) > 0 for value in lines[1].split(",")[1:])


def test_other_views_are_drawn_or_say_what_to_do(frame: Frame) -> None:
    click(frame, "Between layers")
    frame.wait("!!document.querySelector('.place pre')")
    click(frame, "About")
    frame.wait("!!document.querySelector('.facts')")
    click(frame, "Compare")
    frame.wait("document.body.textContent.includes('Tick one or more runs')")


def test_a_growing_run_is_followed(tab: Tab, logdir: Path, served: str) -> None:
    sink = TensorBoardSink(logdir / "growing")
    n = dict.fromkeys(LAYERS, 8)
    for step in range(0, 50, 5):
        meta = [meta_record(n, step)] if not step else []
        sink.write([*meta, *step_records(step, LAYERS, 8)])
    frame = Frame(tab, served)
    frame.open("&p.svdhooks.run=growing")
    frame.wait(f"{STEP} === 'step 45'")
    before = frame.evaluate(COLOURS)
    for step in range(50, 80, 5):
        sink.write(step_records(step, LAYERS, 8))
    sink.close()
    frame.wait(f"{STEP} === 'step 75'")
    frame.wait(f"{STATE}?.includes('16 records')")
    assert len(frame.evaluate(COLOURS)) == len(before)
    assert frame.problems == []


def test_nothing_is_asked_while_nobody_looks(frame: Frame) -> None:
    # the neighbours of the layer come after the first picture
    frame.tab.wait("new Promise(done => setTimeout(() => done(true), 1500))")
    assert asked(frame, high(0), 6.5) == []
    assert "runs" in asked(frame, high(900), 1.0)


def high(pixels: int) -> str:
    """Make the frame as high as TensorBoard makes it when another tab is shown, or ours."""
    value = f"{{ value: {pixels}, configurable: true }}"
    return (
        f"Object.defineProperty(window, 'innerHeight', {value}), "
        "window.dispatchEvent(new Event('resize')), 1"
    )


def asked(frame: Frame, action: str, seconds: float) -> list[str]:
    """The routes that are asked for in some seconds after something was done."""
    frame.tab.requests.clear()
    frame.evaluate(action)
    frame.tab.wait(
        f"new Promise(done => setTimeout(() => done(true), {1000 * seconds}))"
    )
    ours = [url.partition("plugin/svdhooks/")[2] for url in frame.tab.requests]
    return [route.partition("?")[0] for route in ours if route]


def test_an_unchanged_run_is_answered_in_a_few_bytes(frame: Frame) -> None:
    frame.evaluate("performance.clearResourceTimings(), 1")
    size = """performance.getEntriesByType('resource')
      .find(e => e.name.includes('/overview?'))?.encodedBodySize"""
    assert frame.wait(size) < 200


def test_hostile_names_are_text(tab: Tab, served: str) -> None:
    frame = Frame(tab, served)
    frame.open("&p.svdhooks.run=hostile")
    for _ in HOSTILE:
        press(frame, "ArrowDown")
        frame.tab.wait("new Promise(done => setTimeout(() => done(true), 60))")
    for view in ("Between layers", "About", "Compare", "Training"):
        click(frame, view)
    assert frame.evaluate("window.hacked === undefined && top.hacked === undefined")
    assert frame.evaluate("document.querySelectorAll('#svdhooks img').length") == 0
    assert frame.evaluate("document.querySelectorAll('#svdhooks script').length") == 0
    assert frame.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert frame.problems == []


def test_a_directory_without_runs_explains(tab: Tab, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with tensorboard(empty) as address:
        frame = Frame(tab, address)
        frame.open()
        text = frame.evaluate("document.body.textContent")
        assert "svdhooks.watch(" in text
        assert str(empty) in text
        assert frame.problems == []


def test_when_tensorboard_ends_the_tab_says_so(tab: Tab, logdir: Path) -> None:
    with tensorboard(logdir) as address:
        frame = Frame(tab, address)
        frame.open("&p.svdhooks.run=first")
    frame.wait(
        "document.querySelector('.notice').textContent.includes('does not answer')"
    )
    frame.wait(f"{TITLE} === 'first'")
