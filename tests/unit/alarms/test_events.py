"""Events as dictionaries and as Markdown; names of anyone's making in both."""

import html
import json
import math

import markdown
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svdhooks.alarms import AlarmEvent, Collapse
from svdhooks.alarms.event import escaped
from tests.unit.alarms.runs import falling, readings_of, watch

HOSTILE = [
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "a](javascript:alert(1))[b",
    "**bold** `code` | cell |\n# head\n- list",
    "x" * 10_000,
    "\u202e\u0000\x1b[31m",
    "&lt;b&gt; {0} {layer} %s",
]


def test_events_go_through_json_and_back() -> None:
    event = AlarmEvent(
        9, "fc", "collapse", "alarm", "Oh.", 3, {"now": 1.5, "bad": math.nan}
    )
    told = json.loads(json.dumps(event.as_dict(), allow_nan=False))
    back = AlarmEvent.from_dict(told)
    assert (back.step, back.layer, back.alarm, back.severity) == (
        9,
        "fc",
        "collapse",
        "alarm",
    )
    assert (back.message, back.since, back.evidence["now"]) == ("Oh.", 3, 1.5)
    assert math.isnan(back.evidence["bad"])


def test_events_of_other_versions_are_read() -> None:
    event = AlarmEvent.from_dict({"step": 4, "later": {}, "severity": "unheard of"})
    assert event == AlarmEvent(4, "", "", "alarm", "", 4)


def test_an_event_shows_what_where_when_and_the_message() -> None:
    text = AlarmEvent(9, "fc", "all_zero", "info", "Oh.", 3).markdown()
    assert text == "**Information: all\\_zero** · fc · step 9 (since step 3)\n\nOh\\."


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text_and_messages_short(name: str) -> None:
    curves = {name: {"input_effective_rank": falling(52.0, 2.0, 20)}}
    (event,) = watch(Collapse(alone=True), readings_of(curves))
    assert event.layer == name
    assert len(event.message) < 800
    assert event.message.isprintable()
    text = event.markdown()
    assert len(text) < 4000
    assert "<" not in text
    assert text.count("\n") == 2
    assert "](" not in text
    assert AlarmEvent.from_dict(json.loads(json.dumps(event.as_dict()))) == event


@given(st.text(max_size=60))
def test_escaped_text_has_no_markup_and_reads_as_it_was(text: str) -> None:
    line = escaped(text)
    # every character that Markdown or HTML knows stands behind a backslash or in an entity
    bare = html.unescape(line)
    i, plain = 0, ""
    while i < len(bare):
        i += bare[i] == "\\"
        plain += bare[i]
        i += 1
    printable = "".join(c if c.isprintable() else " " for c in text)
    assert plain == " ".join(printable.split())
    assert "<" not in line


@pytest.mark.parametrize(
    "text",
    [
        "a layer: 'b.c_d*'",
        "<b>x</b> & y",
        "[a](http://b)",
        "|a|b|",
        "~~a~~ # b",
        "a \\ `b`",
    ],
)
def test_tensorboards_markdown_shows_the_text_as_it_was(text: str) -> None:
    shown = markdown.markdown(escaped(text), extensions=["tables"])
    assert html.unescape(shown.removeprefix("<p>").removesuffix("</p>")) == text
