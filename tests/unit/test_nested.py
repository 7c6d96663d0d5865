"""Tensors in nested containers."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from svdhooks.nested import leaves, map_tensors, private, tensors_in, with_data

Pair = namedtuple("Pair", "x y")
A, B = torch.arange(3.0), torch.ones(2, 2)


def test_containers_keep_their_kind_and_mappings_become_plain():
    value = {"a": (A, [B, 3]), "b": Pair(A, None), "c": UserDict(d=B)}
    found = map_tensors(lambda t: t + 1, value)
    assert type(found["a"]) is tuple
    assert type(found["a"][1]) is list
    assert type(found["b"]) is Pair
    assert type(found["c"]) is dict
    torch.testing.assert_close(found["a"][0], A + 1)
    torch.testing.assert_close(found["b"].x, A + 1)
    assert found["a"][1][1] == 3


def test_leaves_come_in_order():
    value = OrderedDict(b=[A, (3, "x")], a=Pair(None, B))
    assert [type(leaf).__name__ for leaf in leaves(value)] == [
        "Tensor",
        "int",
        "str",
        "NoneType",
        "Tensor",
    ]
    assert [t.ndim for t in tensors_in(value)] == [1, 2]


@dataclass
class Graph:
    """A batch of a class of the user's."""

    nodes: Tensor


def test_a_private_copy_is_reached_from_neither_side():
    x, graph = A.clone().requires_grad_(), Graph(A.clone())
    mine = private({"x": x * 2, "graph": graph, "n": 3})
    assert not mine["x"].requires_grad
    with torch.no_grad():
        graph.nodes.zero_()
        x.zero_()
    torch.testing.assert_close(mine["x"], 2 * A)
    torch.testing.assert_close(mine["graph"].nodes, A)


def test_a_module_in_a_batch_is_not_copied():
    teacher = torch.nn.Linear(2, 2)
    assert private((A, teacher))[1] is teacher


def test_a_copy_of_inference_tensors_can_be_trained_on():
    with torch.inference_mode():
        mine = private((torch.ones(2),))
    assert not mine[0].is_inference()


@pytest.mark.parametrize("value", [A, [3, A], {"a": (A,)}, Graph(A), [Graph(A), 3]])
def test_data_is_a_tensor_or_an_object_of_some_class(value):
    assert with_data(value) is value


@pytest.mark.parametrize("value", [3, 2.5, "x", None, [], (1, "a"), {"lr": 0.1}, {}])
def test_plain_values_are_no_data(value):
    with pytest.raises(TypeError, match="holds no data"):
        with_data(value)
