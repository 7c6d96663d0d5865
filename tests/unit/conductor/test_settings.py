"""The configuration: what it defaults to, what it refuses, what it says of itself."""

import json
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

import svdhooks
from svdhooks.conductor.settings import Settings, make_settings
from svdhooks.probe import ProbeOptions
from svdhooks.quantities import Covariance, WeightSpectrum
from svdhooks.quantities.resolve import _BY_NAME
from svdhooks.schedule import every


def test_defaults_are_those_of_the_design():
    settings = make_settings(None, None, None)
    assert settings == Settings()
    assert settings.schedule == every(100)
    assert [q.name for q in settings.quantities] == ["weight_spectrum", "covariance"]
    assert settings.max_overhead == 0.01
    assert settings.on_error == "warn"
    assert settings.probe is settings.start_step is settings.layers is None


def test_an_interval_and_a_schedule_say_the_same():
    assert make_settings(7, None, None) == make_settings(None, every(7), None)


def test_arguments_pass_through():
    settings = make_settings(
        None, None, "covariance", layers="a.*", start_step=3, max_overhead=None
    )
    assert settings.quantities == (Covariance(),)
    assert (settings.layers, settings.start_step) == ("a.*", 3)
    assert settings.max_overhead is None


def test_alarms_are_told_with_the_options_of_their_rules():
    told = make_settings(None, None, None, "ssl").describe()["alarms"]
    assert "collapse" in {rule["name"] for rule in told}
    assert json.loads(json.dumps(told)) == told
    assert make_settings(None, None, None).describe()["alarms"] is None


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"schedule": 100}, TypeError),
        ({"schedule": svdhooks.schedule.Every}, TypeError),
        ({"probe_options": None}, TypeError),
        ({"forward": 1}, TypeError),
        ({"max_overhead": 0}, ValueError),
        ({"max_overhead": 1.0}, ValueError),
        ({"max_overhead": -0.1}, ValueError),
        ({"max_overhead": "no"}, TypeError),
        ({"forward": {"a": 1}}, TypeError),
        ({"observe": "both"}, ValueError),
        ({"start_step": -1}, ValueError),
        ({"start_step": True}, TypeError),
        ({"start_step": 1.0}, TypeError),
    ],
)
def test_wrong_values_are_refused_with_the_name_of_the_argument(wrong, error):
    (name,) = wrong
    with pytest.raises(error, match=f"{name}=|schedule"):
        Settings(**wrong)


def test_the_description_says_how_each_quantity_measures():
    """A log explains itself: a local rank without its ε says nothing."""

    @dataclass(frozen=True)
    class Odd(Covariance):
        limit: float = float("inf")
        act: object = print
        model: object = field(default_factory=nn.Identity)

        @property
        def name(self) -> str:
            return "odd"

    chosen = [svdhooks.JacobianSpectrum(eps=0.03, positions=-1), Odd()]
    described = make_settings(None, None, chosen).describe()
    told = {
        x["name"]: x["options"] for x in json.loads(json.dumps(described["quantities"]))
    }
    assert told["local_rank"]["eps"] == 0.03
    assert told["local_rank"]["positions"] == -1
    assert told["local_rank"]["directions"] == 64
    assert told["local_rank"]["point"] is None
    # the same in every process: no address
    assert told["odd"]["limit"] == "inf"
    assert told["odd"]["act"] == "print"
    assert told["odd"]["model"] == "Identity"
    everything = [q for q in _BY_NAME if q != "light"]
    assert json.dumps(make_settings(None, None, everything).describe())


def test_the_description_goes_into_json_whatever_was_given():
    settings = make_settings(
        None,
        svdhooks.any_of(every(10), svdhooks.at(3)),
        [WeightSpectrum(), Covariance(schedule=svdhooks.log_spaced())],
        layers=[nn.Linear, lambda name, module: True],
        probe=torch.zeros(3),
        probe_options=ProbeOptions(mask=lambda b: b, samples="last"),
        forward=lambda model, batch: None,
        start_step=4,
    )
    described = json.loads(json.dumps(settings.describe()))
    assert described["schedule"] == "every 10 steps or at 3"
    assert described["quantities"][1] == {
        "name": "covariance",
        "schedule": "10 steps per decade from 1",
        "options": {
            "points": ["input", "output"],
            "max_features": 8192,
            "measures": [],
        },
    }
    assert described["samples"] == "last"
    assert described["start_step"] == 4
    assert described["max_overhead"] == 0.01
    assert "Linear" in described["layers"]
