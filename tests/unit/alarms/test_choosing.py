"""What ``alarms=`` takes, and what it refuses."""

import pickle
from typing import Any

import pytest

from svdhooks.alarms import (
    PRESETS,
    Alarm,
    AlarmEvent,
    Alarms,
    Collapse,
    NonFinite,
    Reading,
    Watcher,
    resolve_alarms,
)


class Shout:
    """A rule of a user's own, of as little as is needed."""

    name = "shout"
    severity = "alarm"

    def begin(self) -> "Shout":
        return self

    def observe(self, reading: Reading) -> list[AlarmEvent]:
        return [AlarmEvent(reading.step, "", "shout", "alarm", "Oh.", reading.step)]


def test_none_is_none_and_alarms_are_themselves() -> None:
    chosen = Alarms("ssl", on_alarm=print, stop=True)
    assert resolve_alarms(None) is None
    assert resolve_alarms(chosen) is chosen


@pytest.mark.parametrize("preset", ["auto", "ssl", "supervised", "lm"])
def test_each_preset_has_its_rules(preset: str) -> None:
    chosen = resolve_alarms(preset)
    assert chosen is not None
    assert chosen.rules == PRESETS[preset]
    assert all(isinstance(rule, Alarm) for rule in chosen.rules)
    assert len({rule.name for rule in chosen.rules}) == len(chosen.rules)


def test_only_the_supervised_preset_informs_and_only_ssl_judges_rank_alone() -> None:
    informs = {
        p for p, rules in PRESETS.items() if any(r.severity == "info" for r in rules)
    }
    alone = {p for p, rules in PRESETS.items() if Collapse(alone=True) in rules}
    assert (informs, alone) == ({"supervised"}, {"ssl"})


def test_names_rules_and_presets_mix_and_the_same_rule_counts_once() -> None:
    chosen = resolve_alarms(["collapse", NonFinite(), "compression"])
    assert chosen is not None
    assert [rule.name for rule in chosen.rules] == [
        "collapse",
        "non_finite",
        "compression",
    ]
    assert resolve_alarms(["auto", "collapse"]) == resolve_alarms("auto")


def test_two_rules_of_one_name_are_refused_and_renamed_ones_are_not() -> None:
    with pytest.raises(ValueError, match="two different rules are called 'collapse'"):
        resolve_alarms(["auto", Collapse(fall=0.3)])
    assert resolve_alarms(["auto", Collapse(fall=0.3, name="early")]) is not None


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize(
    ("choice", "error", "says"),
    [
        ("sll", ValueError, "Did you mean 'ssl'"),
        ("colapse", ValueError, "Did you mean 'collapse'"),
        ("zzz", ValueError, "presets 'auto'"),
        (Collapse, TypeError, "Give an instance: Collapse()"),
        (3, TypeError, "found 3 of type int"),
        (True, TypeError, "found True of type bool"),
        (["auto", 3], TypeError, "found 3 of type int"),
        ({"collapse": 1}, TypeError, "of type dict"),
        ([], ValueError, "no rule"),
    ],
)
def test_what_is_no_rule_is_refused(
    choice: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as caught:
        resolve_alarms(choice)
    assert says in str(caught.value)


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize("options", [{"on_alarm": 3}, {"stop": "yes"}])
def test_what_happens_at_an_alarm_is_checked(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        Alarms("auto", **options)


def test_choices_pickle_and_compare() -> None:
    chosen = Alarms(["auto"], stop=True)
    assert pickle.loads(pickle.dumps(chosen)) == chosen


def test_a_rule_of_a_users_own_is_given_all_measures() -> None:
    chosen = Alarms([Shout(), Collapse()], stop=True)
    watcher = Watcher(chosen)
    assert watcher.measures is None
    (event,) = watcher.observe(Reading(5))
    assert (event.alarm, watcher.raised, watcher.open) == (
        "shout",
        {"shout": 1, "collapse": 0},
        (),
    )
    assert watcher.should_stop


def test_rules_of_ours_say_what_they_read() -> None:
    chosen = resolve_alarms("collapse")
    assert chosen is not None
    assert chosen.measures is not None
    assert {"output_effective_rank", "weight_stable_rank"} <= chosen.measures


def test_training_stops_at_alarms_and_only_if_asked_to() -> None:
    class Whisper(Shout):
        def observe(self, reading: Reading) -> list[AlarmEvent]:
            return [AlarmEvent(reading.step, "", "shout", "info", "Ah.", reading.step)]

    for rule, stop, stops in [
        (Shout(), False, False),
        (Whisper(), True, False),
        (Shout(), True, True),
    ]:
        watcher = Watcher(Alarms(rule, stop=stop))
        watcher.observe(Reading(0))
        assert watcher.should_stop is stops
