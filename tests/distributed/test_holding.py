"""What an observer of covariances keeps until the processes meet."""

import pytest
import torch
from torch import nn

from svdhooks.distributed.team import Team
from svdhooks.layers import PointValue, find_layers
from svdhooks.quantities import Covariance
from svdhooks.quantities.protocols import ProbeContext


def observe(calls: int, expected: int) -> dict[tuple[str, str], str]:
    """Two layers that have one input; the first of them is called several times."""
    model = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2)})
    layers = find_layers(model).layers
    counts = {id(layers[0].module): expected, id(layers[1].module): 1}
    context = ProbeContext(0, None, "tokens", counts, together=True)
    observer = Covariance(points=("input",)).observer(layers, context)
    shared = PointValue(torch.randn(9, 3), -1)
    for layer in (layers[0], layers[1], *[layers[0]] * (calls - 1)):
        try:
            observer.receive(layer, {"input": shared})
        except ValueError as error:
            observer.fail(layer, error)
    observer.unite(Team(), counts=True)
    return {(r.layer, r.point): r.status for r in observer.records()}


def test_a_shared_input_is_held_once() -> None:
    assert set(observe(1, 1).values()) == {"ok"}


@pytest.mark.parametrize("expected", [2, 0])
def test_several_calls_are_one_record(expected: int) -> None:
    """None are expected of the forward of a training, and of an idle expert."""
    assert set(observe(2, expected).values()) == {"ok"}


def test_a_layer_that_is_called_more_often_than_before_says_so() -> None:
    """Also where another layer has its first input."""
    told = "ValueError: called 2 times, in the first probe less (rank 0)"
    assert observe(2, 1) == {("a", "input"): told, ("b", "input"): told}
