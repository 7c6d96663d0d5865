"""The verdict of a report: what happened, in plain words, no surer than the evidence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from svdhooks.alarms.event import AlarmEvent, named
from svdhooks.analysis.reporting.curves import Fall, Loss, loss_figures
from svdhooks.analysis.reporting.evidence import Evidence
from svdhooks.analysis.reporting.meanings import meaning_of
from svdhooks.display.overview import count, figure

_FEW = 5
"""Below this many records no rule of alarms has a level to compare with."""

_POINTS = {"input": "what enters layers", "output": "what leaves layers"}
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
    by_rule: dict[str, list[AlarmEvent]] = {}
    for event in evidence.alarms:
        by_rule.setdefault(event.alarm, []).append(event)
    for events in by_rule.values():
        verdict.sentences.append(_of_rule(events, evidence))
    _add_falls(verdict, evidence)
    _add_loss(verdict, evidence)
    verdict.sentences += _reservations(evidence)
    return verdict


def _judged(evidence: Evidence) -> tuple[str, str]:
    """Level and headline."""
    if evidence.alarms:
        return ("attention" if evidence.passed else "alarm"), _alarmed(evidence)
    if evidence.records < _FEW:
        few = count(evidence.records, "record")
        return "unknown", f"{few}: too few to say what changed."
    if not evidence.judged:
        return "unknown", "No rank was recorded that could have fallen."
    if any(fall.deep for fall in evidence.falls):
        return "attention", _unclear(evidence)
    return _quiet(evidence)


def _quiet(evidence: Evidence) -> tuple[str, str]:
    """Level and headline of a run in which nothing points to a collapse."""
    over = f"{count(evidence.layers, 'layer')} over {count(evidence.records, 'record')}"
    if evidence.broke:
        return "attention", f"No sign of collapse in {over}, but measurements failed."
    if evidence.sank and evidence.improved:
        return (
            "information",
            f"No sign of collapse in {over}. Ranks fell while the loss improved, as they "
            "do in healthy training that compresses.",
        )
    if evidence.sank:
        return "information", f"Ranks fell; no further sign of collapse in {over}."
    if any(event.severity == "info" for event in evidence.events):
        return "information", f"No sign of collapse in {over}; a remark below."
    if not evidence.rules:
        return "healthy", f"No rank fell to half in {over}. No rules were applied."
    return "healthy", f"No sign of collapse in {over}."


def _alarmed(evidence: Evidence) -> str:
    """The headline of a run with alarms."""
    first = evidence.alarms[0]
    others = len({event.alarm for event in evidence.alarms}) - 1
    head = _HEADS.get(first.alarm, f"Alarm {first.alarm}")
    where = f" in layer {named(first.layer)}" if first.layer else ""
    more = f", and {count(others, 'other kind')} of alarm" if others else ""
    passed = ", passed by the end of the log" if evidence.passed else ""
    return f"{head}{where} since step {first.since:,}{more}{passed}."


def _unclear(evidence: Evidence) -> str:
    """The headline of a deep fall that may be anything."""
    loss = evidence.loss
    if evidence.improved:
        return (
            "A rank fell very low while the loss improved: that can be compression by "
            "supervised training, or the collapse of a self-supervised one, which its "
            'loss does not show (alarms="ssl" takes it for that).'
        )
    if loss is None:
        why = "no loss is in the log, so compression and collapse cannot be told apart"
    elif not loss.judged:
        why = "the loss is known at too few records to say whether it does harm"
    else:
        why = "the loss did not improve"
    return f"A rank fell very low, and {why}."


def _of_rule(events: Sequence[AlarmEvent], evidence: Evidence) -> str:
    """The alarms of one rule as a sentence or two: the first, and how many more."""
    first = events[0]
    message = first.message.strip()
    sentence = message if message.endswith((".", "!", "?")) else f"{message}."
    said = f"At step {first.step:,}: {sentence}"
    if len(events) > 1:
        more = count(len(events) - 1, "more such alarm")
        said += f" {more} followed, the last at step {events[-1].step:,}."
    if evidence.holding is not None and first.alarm not in evidence.holding:
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
        f"{figure(fall.end)}"
    )
    if fall.maximum > 0:
        sentence += f" of at most {figure(fall.maximum)}"
    sentence += f" at step {fall.end_step:,}, {_pace(fall)}."
    if fall.of_weight and fall.metric.endswith("stable_rank"):
        sentence += " Stable ranks of weights fall in most healthy trainings."
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


def _pace(fall: Fall) -> str:
    """When most of the way down was behind a rank."""
    if fall.half_step == fall.most_step:
        return f"nine tenths of the way by step {fall.most_step:,}"
    return (
        f"half of the way by step {fall.half_step:,} and nine tenths by step "
        f"{fall.most_step:,}"
    )


def _add_loss(verdict: Verdict, evidence: Evidence) -> None:
    """Say whether the loss agrees."""
    loss = evidence.loss
    if loss is None:
        how = (
            "checkpoints hold none"
            if evidence.of_checkpoints
            else "give it with recorder.step(loss=loss)"
        )
        verdict.sentences.append(
            f"No loss is in the log, so whether a fall does harm cannot be said: {how}."
        )
        return
    if loss.broken_step is not None:
        broken = f"The loss is not finite at step {loss.broken_step:,}"
        verdict.sentences.append(f"{broken}, for the first time.")
    if math.isnan(loss.start):
        return
    words = _of_loss(loss, bool(evidence.alarms))
    verdict.sentences.append(words)
    verdict.figures += loss_figures(loss)


def _of_loss(loss: Loss, alarmed: bool) -> str:
    """What a loss did, in a sentence; beside alarms also whether it goes on falling."""
    if loss.finite == 1:
        return f"Its only finite value is {figure(loss.start)} at step {loss.start_step:,}."
    last = "five values" if loss.broken_step is None else "five finite values"
    change = (
        f"from {figure(loss.start)} at step {loss.start_step:,} to {figure(loss.now)}, "
        f"the median of its last {last}"
    )
    if not loss.judged:
        return f"The loss went {change}; these are too few to judge it."
    if loss.state == "worse":
        best = figure(loss.best)
        return (
            f"The loss got worse again: it went {change}, and was {best} at its best."
        )
    if loss.state == "diverged":
        return f"The finite values of the loss went {change}."
    if loss.falls:
        ended = ", and no longer falls" if alarmed and loss.stalled else ""
        return f"The loss fell {change}{ended}."
    return f"The loss went {change}: it did not fall by more than its own noise."


def _reservations(evidence: Evidence) -> list[str]:
    """What cannot be said, and why."""
    found = []
    if evidence.first_failure is not None:
        layer, point, step, status = evidence.first_failure
        where = f"{point} of layer {named(layer)}"
        several = count(evidence.failed, "measurement")
        one = evidence.broken == 1 and evidence.failed > 1
        found.append(
            f"{several} failed, all of the {where}, since step {step:,}: {status}."
            if one
            else f"{several} failed; the first: {where} at step {step:,}: {status}."
        )
    limited = [point for point, share in evidence.limited.items() if share > 0.0]
    if limited:
        found.append(
            "The reference batch has too few samples for some ranks of "
            f"{' and of '.join(_POINTS.get(p, p) for p in sorted(limited))}: they read "
            "low, are marked so, and no alarm rests on them. A larger probe= would tell "
            "more."
        )
    if evidence.damage:
        found.append(
            f"{count(evidence.damage, 'record')} of the log could not be read: see "
            "what is damaged below."
        )
    return found
