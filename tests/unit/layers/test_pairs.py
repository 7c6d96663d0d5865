"""Two layers that fit, and what is said of those that do not."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from svdhooks import linalg
from svdhooks.layers import Layer, find_layers
from svdhooks.layers.pairs import make_pair
from svdhooks.linalg.spectral_graph import left_vectors, right_vectors


def layers_of(*modules: nn.Module) -> list[Layer]:
    return list(find_layers(nn.Sequential(*modules)).layers)


PAIRS = {
    "fc-fc": ((nn.Linear(3, 8), nn.Linear(8, 5)), 8, 1),
    "conv-conv": ((nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, (2, 3))), 8, 6),
    "conv-fc": ((nn.Conv1d(3, 8, 3), nn.Linear(8 * 7, 5)), 8, 7),
    "fc-conv": ((nn.Linear(3, 8), nn.Conv3d(8, 5, 2)), 8, 8),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_what_a_pair_says_of_itself(kind):
    modules, features, positions = PAIRS[kind]
    earlier, later = layers_of(*modules)
    pair = make_pair(earlier, later)
    assert pair.earlier is earlier
    assert pair.later is later
    assert (pair.kind, pair.stream, pair.norm) == (kind, False, None)
    assert (pair.features, pair.positions) == (features, positions)
    assert json.loads(json.dumps(pair.describe())) == {
        "name": "0->1",
        "source": "0",
        "target": "1",
        "kind": kind,
        "stream": False,
        "features": features,
        "positions": positions,
        "norm": False,
    }


@pytest.mark.parametrize("kind", PAIRS)
def test_flattened_weights_give_the_adjacency_of_the_kernels(kind):
    modules, _, _ = PAIRS[kind]
    earlier, later = layers_of(*modules)
    U = left_vectors(earlier.weight())
    Vh = right_vectors(later.weight())
    expected = linalg.spectral_adjacency(modules[0].weight, modules[1].weight)
    torch.testing.assert_close(linalg.vector_adjacency(U, Vh), expected)


def test_a_norm_between_them():
    earlier, later = layers_of(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3))
    norm = nn.BatchNorm2d(8)
    pair = make_pair(earlier, later, stream=True, norm=norm)
    assert (pair.norm, pair.stream) == (norm, True)
    with pytest.raises(ValueError, match="batch norm of 5 features after '0'"):
        make_pair(earlier, later, norm=nn.BatchNorm2d(5))
    with pytest.raises(TypeError, match="norm of LayerNorm"):
        make_pair(earlier, later, norm=nn.LayerNorm(8))


REFUSED = [
    (nn.Linear(3, 8), nn.Linear(9, 5), "'0' with 8 outputs and '1' with 9 inputs"),
    # a multiple makes sense of a flattened map alone
    (nn.Linear(3, 8), nn.Linear(16, 5), "'1' with 16 inputs; expected 8 inputs. Give"),
    (nn.Conv2d(3, 8, 3), nn.Conv2d(16, 5, 3), "'1' with 16 inputs; expected 8"),
    (nn.Conv2d(3, 8, 3), nn.Linear(9, 5), "or a multiple of 8"),
    (nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 5, 3), "'0' .conv2d., which has 4 gr"),
    (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), "'1' .conv2d., which has 8 gr"),
    (nn.ConvTranspose2d(3, 8, 3), nn.Linear(8, 2), "a transposed convolution"),
    (nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 3, 3), "a transposed convolution"),
    (nn.Linear(3, 8), nn.Embedding(8, 5), "reads indices"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_layers_that_are_no_pair(number):
    first, second, message = REFUSED[number]
    earlier, later = layers_of(first, second)
    with pytest.raises(ValueError, match=message):
        make_pair(earlier, later)


def test_experts_gates_and_products_of_inputs():
    linear, other = layers_of(nn.Linear(3, 8), nn.Linear(8, 5))
    with pytest.raises(ValueError, match="has 4 experts"):
        make_pair(linear, replace(other, experts=4))
    (bilinear,) = layers_of(nn.Bilinear(2, 4, 5))
    with pytest.raises(ValueError, match="a product of two inputs"):
        make_pair(linear, bilinear)
    cell = layers_of(nn.LSTM(8, 8))
    gate = next(x for x in cell if x.name.endswith("weight_ih_l0.i"))
    assert make_pair(linear, gate).kind == "fc-fc"
    with pytest.raises(ValueError, match="through the gates of the cell"):
        make_pair(gate, other)
    (plain, *_) = layers_of(nn.RNN(8, 8))
    with pytest.raises(ValueError, match="gates of the cell"):
        make_pair(plain, other)


def test_an_embedding_writes():
    embedding, reader = layers_of(nn.Embedding(20, 8), nn.Linear(8, 5))
    pair = make_pair(embedding, reader)
    assert (pair.kind, pair.features) == ("fc-fc", 8)
