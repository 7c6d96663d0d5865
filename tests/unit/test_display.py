"""A run as text and as HTML, read back by a parser of HTML."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import svdhooks
from svdhooks import display
from svdhooks.display.overview import Curve, figure, log_spaced, thin
from svdhooks.display.plot import colours, plot, sparkline
from svdhooks.display.text import spark
from svdhooks.record import Record
from svdhooks.sinks.memory import MemorySink
from svdhooks.sinks.readable import source_of
from svdhooks.sinks.tensorboard import TensorBoardSink
from tests.logs import (
    covariance_record,
    jacobian_record,
    run_record,
    step_records,
    write_run,
)

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></svg><b>&amp;",
    "'; DROP TABLE layers",
)


class Page(HTMLParser):
    """The elements and the text that a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.classes: list[tuple[str, str | None]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.classes.append((tag, dict(attrs).get("class")))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def classes_of(self, tag: str) -> str:
        """The classes of the elements of a kind."""
        found = [c or "" for t, c in self.classes if t == tag]
        return " ".join(found)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _record(step: int, layer: str, value: float, status: str = "ok") -> Record:
    values = {"stable_rank": np.asarray(value)}
    return Record(step, layer, "weight_spectrum", values, status=status, point="weight")


def _run(*values: float, layer: str = "fc1") -> MemorySink:
    memory = MemorySink()
    for step, value in enumerate(values):
        status = "ok" if np.isfinite(value) else "non-finite values"
        memory.write([
            run_record(step * 10, overhead=0.006, spent=4.25),
            _record(step * 10, layer, value, status),
        ])
    return memory


# --- text ------------------------------------------------------------------------------


def test_the_table_has_first_and_last_value_of_each_measure_and_what_it_cost():
    lines = display.text(_run(27.04, 9.0, 3.123), title="exp1").splitlines()
    assert lines[0] == "exp1: 1 layer, 3 records, steps 0 to 20"
    assert lines[1].split() == ["layer", "weight", "stable", "rank"]
    assert lines[2].split() == ["fc1", "27", "→", "3.12", "█▃▂"]
    assert lines[3] == "Recording took 0.60% of the training time, 4.25 s."
    assert len(lines) == 4


def test_a_failure_is_said_beside_its_layer_and_not_left_out_for_want_of_room():
    memory = _run(1.0, 2.0, layer="good")
    for step in (0, 10):
        memory.write([_record(step, "bad", np.nan, "out of memory")])
    text = display.text(memory, rows=1)
    assert re.search(r"bad +– → – +failed 2×: out of memory", text)
    assert "… and 1 more layer" in text
    assert "good" not in text


def test_a_name_moves_no_cursor_and_breaks_no_line():
    text = display.text(_run(1.0, layer="a\x1b[2Jb\nc"), title="t\r")
    assert r"a\x1b[2Jb\nc" in text
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text.splitlines()) == 4


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (27.04, "27"),
        (0.01234, "0.0123"),
        (999.4, "999"),
        (48123.0, "48,123"),
        (1.5e7, "1.50e+07"),
        (-3.0, "-3"),
        (float("nan"), "–"),
        (float("inf"), "–"),
    ],
)
def test_figures(value, shown):
    assert figure(value) == shown


def _curve(*values: float) -> Curve:
    return Curve(np.arange(len(values)) * 10, np.array(values, dtype=np.float64))


def test_block_characters_follow_the_values():
    assert spark(_curve(*range(8))) == "▁▂▃▄▅▆▇█"
    assert spark(_curve(0.0, np.nan, 7.0)) == "▁ █"
    assert spark(_curve(5.0, 5.0)) == "██"  # from 0 on: nothing changed
    assert spark(_curve(100.0, 99.0)) == "██"
    assert spark(_curve(5.0)) == spark(_curve(np.nan, np.nan)) == ""


def test_a_thinned_curve_keeps_its_ends():
    thinned = thin(_curve(*range(1000)), 40)
    assert len(thinned.steps) == 40
    assert thinned.values[[0, -1]].tolist() == [0, 999]
    np.testing.assert_array_equal(thinned.steps, thinned.values * 10)


# --- HTML ------------------------------------------------------------------------------


def test_html_shows_a_line_per_layer_that_a_browser_reads():
    memory = MemorySink()
    for step in (0, 10, 20):
        memory.write(step_records(step, ["fc1", "fc2"]))
    page = Page(display.html(memory, title="exp1", measure="weight_stable_rank"))
    assert page.open == []
    assert page.tags.count("tr") == 3
    # three sparklines per layer and the plot
    assert page.tags.count("svg") == 2 * 3 + 1
    text = " ".join(page.text)
    for name in ("fc1", "fc2", "exp1", "weight stable rank", "output effective rank"):
        assert name in text
    first, last = memory.series("fc2", "input_effective_rank")[1][[0, -1]]
    assert f"{first:.3g} → {last:.3g}" in text


def test_names_are_shown_as_text_whatever_they_are():
    memory = MemorySink()
    for step in (0, 10):
        memory.write([
            *(r for name in HOSTILE for r in step_records(step, [name])[1:]),
            _record(step, "bad", np.nan, status="<i>failed</i>"),
        ])
    html = display.html(memory, title=HOSTILE[0], measure="weight_stable_rank")
    page = Page(html)
    known = {"div", "style", "p", "strong", "span", "i", "svg", "g", "path", "text"}
    known |= {"polyline", "circle", "title", "table", "thead", "tbody"}
    assert set(page.tags) <= known | {"tr", "th", "td"}
    assert page.tags.count("i") == len(HOSTILE) + 1  # the marks of the key alone
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    for name in HOSTILE:
        # in the table, the key, and the curve's tooltip
        assert page.text.count(name) >= 3
    assert "failed 2×: <i>failed</i>" in page.text


def test_html_needs_nothing_from_outside_and_takes_the_pages_colours():
    memory = _run(1.0, 2.0)
    html = display.html(memory, measure="weight_stable_rank")
    assert "http" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert "script" not in html
    assert "currentColor" in html
    assert not re.search(
        r"(?<![-\w])(color|background):\s*(#fff|#000|white|black)", html
    )


@pytest.mark.parametrize("values", [(), (1.0,), (np.nan,), (np.nan, np.nan)])
def test_little_or_nothing_recorded_is_shown_too(values):
    html = display.html(_run(*values), measure="weight_stable_rank")
    page = Page(html)
    assert page.open == []
    assert "nan" not in html.lower().replace("non-finite", "")
    finite = any(np.isfinite(values))
    assert ("Nothing to draw yet." in html) == (not finite)
    assert page.tags.count("circle") == finite


def test_large_models_are_cut_and_said_to_be():
    memory = MemorySink()
    memory.write([_record(0, f"layer{i}", 1.0 + i) for i in range(300)])
    page = Page(display.html(memory, measure="weight_stable_rank"))
    assert page.tags.count("tr") == 101
    assert "… and 200 more layers" in page.text
    assert page.tags.count("circle") == 150  # every second of 300


# --- curves ----------------------------------------------------------------------------


def _points(svg: str) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, pair.split(","))) for pair in line.split()]
        for line in re.findall(r'points="([^"]+)"', svg)
    ]


def test_a_curve_goes_up_where_its_values_do_and_spans_the_plot():
    svg = plot([("fc1", _curve(1.0, 2.0, 1.5))], "label")
    ((first, middle, last),) = _points(svg)
    assert first[0] < middle[0] < last[0]
    assert middle[0] - first[0] == pytest.approx(last[0] - middle[0])
    # the height of SVG counts from the top
    assert last[1] == pytest.approx((first[1] + middle[1]) / 2, abs=0.1)
    assert middle[1] < first[1]


def test_wide_ranges_are_drawn_on_a_log_scale():
    ((a, b, c),) = _points(plot([("fc1", _curve(1.0, 10.0, 100.0))], "label"))
    assert a[1] - b[1] == pytest.approx(b[1] - c[1], abs=0.15)


def test_a_failed_value_is_a_gap_and_a_lone_value_a_dot():
    svg = plot([("fc1", _curve(1.0, 2.0, np.nan, 3.0, np.nan, 2.0, 1.0))], "label")
    assert [len(line) for line in _points(svg)] == [2, 2]
    assert svg.count("<circle") == 1


def test_numbers_at_the_grid_lines_stand_where_their_values_are():
    svg = plot([("fc1", _curve(0.0, 10.0))], "label")
    ((low, high),) = _points(svg)
    grid = [float(y) for y in re.findall(r'<path d="M[\d.]+ ([\d.]+)h', svg)]
    told = [float(v) for v in re.findall(r'text-anchor="end"[^>]*>([\d.]+)<', svg)]
    assert told == [0, 2, 4, 6, 8, 10]
    expected = [low[1] + (high[1] - low[1]) * value / 10 for value in told]
    np.testing.assert_allclose(grid, expected, atol=0.1)


def test_a_sparkline_of_one_value_is_nothing():
    assert sparkline(_curve(1.0)) == sparkline(_curve(np.nan, 1.0)) == ""
    assert len(_points(sparkline(_curve(*range(500))))[0]) == 40


def test_every_layer_has_a_colour_of_its_own():
    for number in (1, 6, 7, 100):
        assert len(set(colours(number))) == number


def test_pairs_of_layers_are_no_layers_of_the_table_unless_they_fail():
    memory = _run(3.0, 2.0)
    described = {"layers": [], "pairs": [{"name": "a->b"}, {"name": "b->c"}]}
    told = {"json": np.array(json.dumps(described))}
    memory.write([Record(0, "", "meta", told)])
    for pair, status in (("a->b", "ok"), ("b->c", "lost")):
        edges = {"top": np.array(0.5)}
        memory.write([Record(0, pair, "spectral_edges", edges, status, point="edges")])
    text = display.text(memory)
    assert "fc1" in text
    assert "a->b" not in text
    assert "b->c" in text


# --- where records can be read again ---------------------------------------------------


def test_both_readers_of_a_run_can_be_shown(tmp_path: Path):
    write_run(tmp_path / "exp1", [0, 10])
    log = svdhooks.RunLog(tmp_path / "exp1")
    memory = MemorySink()
    for step in (0, 10):
        memory.write(step_records(step, ["fc1", "fc2"]))
    shown = [display.text(source, title="run") for source in (log, memory)]
    assert shown[0] == shown[1]
    assert isinstance(log, display.Source)
    assert isinstance(memory, display.Source)


def test_a_recorders_records_are_found_in_memory_or_in_its_log(tmp_path: Path):
    memory, board = MemorySink(), TensorBoardSink(tmp_path / "exp1")
    other = SimpleNamespace()
    assert source_of([other, board, memory]) is memory
    assert source_of([other]) is None
    board.write(step_records(0, ["fc1"]))
    source = source_of([other, board])
    assert isinstance(source, svdhooks.RunLog)
    assert source.layers == ("fc1",)
    assert source.name == "exp1"


def test_a_live_view_of_a_log_reads_what_was_added(tmp_path: Path):
    board = TensorBoardSink(tmp_path)
    board.write(step_records(0, ["fc1"]))
    view = display.LiveView(svdhooks.RunLog(tmp_path))
    assert not view.update()  # it is not shown yet
    drawn: list[str] = []
    view._handle = SimpleNamespace(update=lambda v: drawn.append(v._repr_html_()))
    board.write(step_records(10, ["fc1"]))
    assert view.update()
    assert "steps 0 to 10" in drawn[0]


def test_a_live_view_waits_between_two_drawings():
    clock = iter([10.0, 10.0, 10.5, 11.0, 11.0]).__next__
    view = display.LiveView(_run(1.0), seconds=1.0, clock=clock)
    view._handle = SimpleNamespace(update=lambda _: None)
    assert [view.update(now=False) for _ in range(3)] == [True, False, True]


# --- what was asked for by name ---------------------------------------------------------


def _asked() -> MemorySink:
    """Weights at even steps; local ranks at few, more and more apart; one by a sketch."""
    memory = MemorySink()
    for step in (*EARLY, *range(2000, 10_001, 2000)):
        memory.write([run_record(step), _record(step, "fc1", step + 1.0)])
    for step in EARLY:
        memory.write([jacobian_record(step, name) for name in ("fc1", "fc2")])
        memory.write([jacobian_record(step, "sketched", sketch=step > 0)])
    return memory


EARLY = (0, 1, 10, 100, 1000, 10_000)


def _ends(layer: str, metric: str) -> list[str]:
    return [figure(jacobian_record(s, layer).measures[metric]) for s in (0, 10_000)]


def test_local_ranks_are_shown_first_to_last_the_relative_one_before():
    head, fc1, *_, sketched = display.text(_asked()).splitlines()[1:]
    assert head.split("  ")[0].strip() == "layer"
    assert head.index("local rank (relative)") < head.index("local rank (absolute)")
    relative, absolute = "relative_local_rank", "local_rank"
    for metric in (relative, absolute):
        assert " → ".join(_ends("fc1", metric)) in fc1
    first, last = _ends("sketched", absolute)
    assert f"{first} → ≥ {last}" in sketched  # the first was complete
    first, last = _ends("sketched", relative)
    assert f"{first} → ≈ {last}" in sketched
    assert "≥" not in fc1
    page = Page(display.html(_asked(), measure="jacobian_local_rank"))
    assert f"{first} → ≈ {last}" in page.text
    assert "local rank (absolute) (≥: by random directions)" in page.text


def test_a_terminal_that_is_too_narrow_gets_no_sparklines(monkeypatch):
    wide = display.text(_asked())
    assert "█" in wide
    monkeypatch.setenv("COLUMNS", "70")
    narrow = display.text(_asked())
    assert "█" not in narrow
    assert max(map(len, narrow.splitlines())) <= 70
    assert " → ".join(_ends("fc1", "local_rank")) in narrow
    monkeypatch.setenv("COLUMNS", "50")
    least = display.text(_asked())
    assert max(map(len, least.splitlines())) <= 50
    assert " → ".join(_ends("fc1", "relative_local_rank")) in least
    assert " → ".join(_ends("fc1", "local_rank")) not in least
    assert "Too narrow for local rank (absolute)." in least
    monkeypatch.setenv("COLUMNS", "300")
    assert display.text(_asked()) == wide


@pytest.mark.parametrize(
    ("steps", "early"),
    [
        (EARLY, True),
        ((1, *EARLY[2:]), True),
        (range(0, 1000, 10), False),
        ((0, 1, 9, 10), False),  # a gap
        ((500, 501, 502, 503, 9000), False),  # resumed
        ((), False),
    ],
)
def test_steps_are_drawn_as_logarithms_where_most_are_early(steps, early):
    steps = np.array(steps, dtype=np.int64)
    assert log_spaced(steps) == early
    if len(steps) > 1 and early:
        drawn = plot([("fc1", Curve(steps, np.arange(1.0, len(steps) + 1)))], "")
        places = re.findall(r'points="([^"]+)"', drawn)[0].split()
        across = [float(place.split(",")[0]) for place in places]
        gaps = np.diff(across)
        assert gaps.min() > 0.25 * gaps.max()  # on an even axis 1e-4
        assert ">10<" in drawn
        assert ">1,000<" in drawn


def test_a_table_of_many_measures_has_narrower_columns():
    memory = _asked()
    memory.write([covariance_record(0, "fc1", point) for point in ("input", "output")])
    assert "sh-many" in Page(display.html(memory)).classes_of("table")
    assert "sh-many" not in Page(display.html(_asked())).classes_of("table")
