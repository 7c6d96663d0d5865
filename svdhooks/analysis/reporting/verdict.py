"""The verdict of a report: what happened, in plain words, no surer than the evidence."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from svdhooks.alarms.event import AlarmEvent, named
from svdhooks.analysis.reporting.curves import Fall, Loss, median_calls
from svdhooks.analysis.reporting.meanings import meaning_of
from svdhooks.display.overview import count, figure

_FEW = 5
"""Below this many records no rule of alarms has a level to compare with."""

_LOW = 1 / 16
"""Below this share of what is possible healthy embeddings were not seen."""

_SHOWN = 3
_ORDER = ("non_finite", "collapse", "token_collapse", "exploding", "all_zero")
_HEADS = {
    "collapse": "Signs of collapse",
    "token_collapse": "Signs that tokens become alike",
    "non_finite": "Values that are not finite",
    "all_zero": "A layer of zeros",
    "exploding": "A weight grows without bound",
    "attention_logits": "Attention logits grow without bound",
    "dead_units": "Units die",
}


@dataclass
class Evidence:
    """What a verdict rests on.

    Attributes:
        records: How many steps were recorded.
        layers: How many layers.
        judged: How many layers have a rank that rules look at.
        events: The alarms, live and read afterwards.
        holding: The names of rules whose condition held at the end; None: not known.
        falls: The ranks that fell, the deepest first.
        loss: What the loss did; None: there is none.
        failed: How many measurements failed.
        first_failure: Of the first: layer, point, step, status.
        limited: Point -> share of its measurements that rest on too few samples.
        damage: How many records could not be read.
        rules: Whether any rules were applied.
    """

    records: int
    layers: int
    judged: int
    events: Sequence[AlarmEvent] = ()
    holding: frozenset[str] | None = None
    falls: Sequence[Fall] = ()
    loss: Loss | None = None
    failed: int = 0
    first_failure: tuple[str, str, int, str] | None = None
    limited: dict[str, float] = field(default_factory=dict)
    damage: int = 0
    rules: bool = True

    @property
    def alarms(self) -> list[AlarmEvent]:
        """Those events that somebody should look at, the gravest rule first."""
        found = [event for event in self.events if event.severity == "alarm"]
        place = {name: i for i, name in enumerate(_ORDER)}
        return sorted(found, key=lambda e: (place.get(e.alarm, len(place)), e.step))

    @property
    def deep(self) -> list[Fall]:
        """Falls that ended where no healthy representation was seen."""
        return [fall for fall in self.falls if fall.of_maximum < _LOW]


@dataclass
class Verdict:
    """What is said.

    Attributes:
        level: ``"healthy"``, ``"information"``, ``"attention"``, ``"alarm"`` or
            ``"unknown"``.
        headline: One sentence.
        sentences: More of them.
        figures: Numbers in the sentences: the call that gives each, its value, and where
            the call gives a curve, the step.
    """

    level: str
    headline: str
    sentences: list[str] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """As the page has it."""
        return {
            "level": self.level,
            "headline": self.headline,
            "sentences": self.sentences,
            "figures": self.figures,
        }


def verdict_of(evidence: Evidence) -> Verdict:
    """Say what happened.

    Args:
        evidence: What is known.

    Returns:
        Level, sentences, and the calls that give their numbers.
    """
    verdict = Verdict(*_judged(evidence))
    for event in evidence.alarms[:_SHOWN]:
        verdict.sentences.append(_of_event(event, evidence))
    more = len(evidence.alarms) - _SHOWN
    if more > 0:
        verdict.sentences.append(f"{count(more, 'more alarm')} below.")
    _add_falls(verdict, evidence)
    _add_loss(verdict, evidence)
    verdict.sentences += _reservations(evidence)
    return verdict


def _judged(evidence: Evidence) -> tuple[str, str]:
    """Level and headline."""
    if evidence.alarms:
        return "alarm", _alarmed(evidence)
    over = f"{count(evidence.layers, 'layer')} over {count(evidence.records, 'record')}"
    if evidence.records < _FEW:
        least = f"{count(evidence.records, 'record')}: too few to say what changed."
        return "unknown", least
    if not evidence.judged:
        return "unknown", "No rank was recorded that could have fallen."
    if evidence.deep and not (evidence.loss and evidence.loss.falls):
        return "attention", _unclear(evidence)
    if evidence.failed:
        failed = count(evidence.failed, "measurement")
        return "attention", f"No sign of collapse, but {failed} failed, in {over}."
    info = [event for event in evidence.events if event.severity == "info"]
    if evidence.falls and evidence.loss and evidence.loss.falls:
        return (
            "information",
            "Ranks fell while the loss improved: compression, as healthy training "
            "shows it. No sign of collapse.",
        )
    if evidence.falls:
        return "information", f"Ranks fell; no further sign of collapse in {over}."
    if info:
        return "information", f"No sign of collapse in {over}; something to know below."
    if not evidence.rules:
        return "healthy", f"No rank fell to half, in {over}. No rules were applied."
    return "healthy", f"No sign of collapse in {over}."


def _alarmed(evidence: Evidence) -> str:
    """The headline of a run with alarms."""
    first = evidence.alarms[0]
    kinds = Counter(event.alarm for event in evidence.alarms)
    head = _HEADS.get(first.alarm, f"Alarm {first.alarm}")
    where = f" in layer {named(first.layer)}" if first.layer else ""
    others = len(kinds) - 1
    more = f", and {count(others, 'other kind')} of alarm" if others else ""
    return f"{head}{where} since step {first.since:,}{more}."


def _unclear(evidence: Evidence) -> str:
    """The headline of a deep fall that may be anything."""
    loss = evidence.loss
    if loss is None:
        why = "no loss is in the log, so compression and collapse cannot be told apart"
    elif not loss.judged:
        why = "the loss is known at too few records to say which this is"
    else:
        why = "the loss did not improve"
    return f"Ranks fell very low, and {why}."


def _of_event(event: AlarmEvent, evidence: Evidence) -> str:
    """An alarm as a sentence."""
    message = event.message.strip()
    sentence = message if message.endswith((".", "!", "?")) else f"{message}."
    said = f"At step {event.step:,}: {sentence}"
    if evidence.holding is not None and event.alarm not in evidence.holding:
        said += " It had passed by the end of the log."
    return said


def _add_falls(verdict: Verdict, evidence: Evidence) -> None:
    """Say which rank fell most, and how many others did."""
    if not evidence.falls:
        return
    fall = evidence.falls[0]
    meaning = meaning_of(fall.metric)
    rose = fall.high > 1.1 * fall.start
    start = (
        f"rose from {figure(fall.start)} to {figure(fall.high)} at step "
        f"{fall.high_step:,} and fell"
        if rose
        else f"fell from {figure(fall.high)} at step {fall.high_step:,}"
    )
    sentence = (
        f"The deepest fall: the {meaning.title} of layer {named(fall.layer)} {start} to "
        f"{figure(fall.end)} at step {fall.end_step:,}"
    )
    if fall.maximum > 0:
        sentence += f", of {figure(fall.maximum)} that are possible"
    sentence += f"; half of the way was behind it at step {fall.half_step:,}."
    layers = len({each.layer for each in evidence.falls})
    if layers > 1:
        sentence += (
            f" In {layers} of {evidence.layers} layers a rank ended below half of its "
            "highest."
        )
    verdict.sentences.append(sentence)
    ends = {(fall.high_step, fall.high), (fall.end_step, fall.end)}
    ends |= {(fall.start_step, fall.start)} if rose else set()
    for step, value in sorted(ends):
        verdict.figures.append({"call": fall.call, "step": step, "value": value})


def _add_loss(verdict: Verdict, evidence: Evidence) -> None:
    """Say whether the loss agrees."""
    loss = evidence.loss
    if loss is None:
        verdict.sentences.append(
            "No loss is in the log, so whether a fall does harm cannot be said: give it "
            "with recorder.step(loss=loss)."
        )
        return
    if loss.broken_step is not None:
        verdict.sentences.append(
            f"The loss is not finite at step {loss.broken_step:,}."
        )
    if math.isnan(loss.start):  # never finite, or too few
        return
    change = f"from {figure(loss.start)} to {figure(loss.now)}"
    if not loss.judged:
        words = f"The loss went {change}, at too few records to judge it."
    elif loss.state == "worse":
        words = (
            f"The loss got worse again: it went {change}, and was {figure(loss.best)} "
            "at its best."
        )
    elif loss.state == "stuck":
        words = f"The loss hardly moved, {change}: less than its own noise."
    else:
        words = f"The loss {'fell' if loss.now < loss.start else 'went'} {change}."
    verdict.sentences.append(f"{words} (Medians of the first and last five records.)")
    for call, value in median_calls(loss):
        verdict.figures.append({"call": call, "step": None, "value": value})


def _reservations(evidence: Evidence) -> list[str]:
    """What cannot be said, and why."""
    found = []
    if evidence.first_failure is not None:
        layer, point, step, status = evidence.first_failure
        found.append(
            f"{count(evidence.failed, 'measurement')} failed; the first: {point} of "
            f"layer {named(layer)} at step {step:,}: {status}."
        )
    limited = [point for point, share in evidence.limited.items() if share > 0.0]
    if limited:
        found.append(
            f"The reference batch has too few samples for the ranks of "
            f"{' and '.join(sorted(limited))}: they read low, are marked so, and no alarm "
            "rests on them. A larger probe= would tell more."
        )
    if evidence.damage:
        found.append(
            f"{count(evidence.damage, 'record')} of the log could not be read: see "
            "what is damaged below."
        )
    return found
