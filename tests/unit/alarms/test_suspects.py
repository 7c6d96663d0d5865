"""Layers that rules need not see: leaving them out changes nothing."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from svdhooks.alarms import Collapse, Exploding, Watcher, readings
from svdhooks.alarms.choosing import Alarms
from svdhooks.alarms.suspects import suspects
from tests.unit.alarms.runs import rows

STEPS = np.arange(0, 1200, 30)
LAYERS = tuple(f"l{i:02}" for i in range(12))
MEASURES = (
    "input_effective_rank",
    "output_effective_rank",
    "weight_stable_rank",
    "weight_spectral_norm",
    "output_total_variance",
    "output_mean_norm",
    "input_dead_fraction",
    "attention_logits_scaled_max",
)


def curve(rng: np.random.Generator, measure: str) -> np.ndarray:
    """Well, or fallen, or grown, from somewhere on and maybe back again."""
    scale = {"input_dead_fraction": 0.1, "attention_logits_scaled_max": 3.0}
    base = scale.get(measure, 8.0) * (1 + 0.1 * rng.standard_normal(len(STEPS)))
    begin, end = np.sort(rng.integers(0, len(STEPS), 2))
    factor = rng.choice([1, 1, 1, 0.0, 1e-6, 0.05, 0.3, 9, 30, 2000])
    base[begin:end] *= factor
    if measure == "input_dead_fraction":
        base = np.clip(base, 0, 1)
    return base.astype(np.float32).astype(float)


@dataclass
class Invented:
    """A log of random curves; measures are missing here and there."""

    seed: int

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.layers, self.edges, self.steps = LAYERS, (), STEPS
        self.metrics, self.run_metrics, self.events = MEASURES, ("loss",), ()
        self.described = rows(*LAYERS, width=64, outputs=10)
        self.curves = {}
        for layer in LAYERS:
            well = rng.random() < 0.5
            for measure in MEASURES:
                there = rng.random(len(STEPS)) < rng.choice([1.0, 1.0, 0.9])
                values = curve(rng, measure)
                values = np.full(len(STEPS), values[0]) if well else values
                self.curves[layer, measure] = STEPS[there], values[there]
        loss = np.exp(-STEPS / 300) + 0.05 * rng.standard_normal(len(STEPS))
        loss[rng.integers(10, 60) :] += rng.choice([0, 2, math.nan])
        self.loss = loss

    def series(self, layer: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
        return self.curves[layer, metric]

    def run_series(self, _metric: str) -> tuple[np.ndarray, np.ndarray]:
        return STEPS, self.loss


@pytest.mark.parametrize("preset", ["ssl", "supervised"])
def test_the_same_events_with_and_without_the_layers_that_are_well(preset: str) -> None:
    several, spared = 0, 0
    for seed in range(4):
        log = Invented(seed)
        whole, short = Watcher(Alarms(preset)), Watcher(Alarms(preset))
        seen = set()
        for reading in readings(log, None, whole.measures):
            several += len(whole.observe(reading))
        for reading in readings(log, None, short.measures, short.rules):
            short.observe(reading)
            seen |= reading.values.keys()
        assert short.open == whole.open
        assert short.raised == whole.raised
        spared += len(LAYERS) - len(seen)
    assert several > 5
    assert spared > 5


@pytest.mark.parametrize("rule", [Collapse(), Exploding()])
def test_what_is_not_a_number_is_kept(rule: Collapse | Exploding) -> None:
    column = STEPS, np.where(STEPS == 300, np.inf, 8.0).astype(np.float32)
    layers = {"fc": {"weight_spectral_norm": column}}
    assert suspects([rule], layers, rows("fc"), ()) == {"fc"}


def test_rules_of_a_user_see_every_layer() -> None:
    class Own(Exploding):
        pass

    column = STEPS, np.ones(len(STEPS), np.float32)
    layers = {name: {"weight_spectral_norm": column} for name in ("a", "b")}
    assert suspects([Own()], layers, rows("a", "b"), ()) == {"a", "b"}
    assert suspects([Exploding()], layers, rows("a", "b"), ()) == set()


def test_what_enters_the_model_is_seen_where_any_layer_is() -> None:
    table = rows("in", "mid", "fc")
    steps = np.arange(20)
    well, low = np.full(20, 30.0), np.full(20, 1.0)
    layers = {
        name: {"input_effective_rank": (steps, values.astype(np.float32))}
        for name, values in (("in", well), ("mid", well), ("fc", low))
    }
    assert suspects([Collapse()], layers, table, ()) == {"in", "fc"}
    del layers["fc"]
    assert suspects([Collapse()], layers, table, ()) == set()
