"""Pairs of layers, against what is written in the models."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svdhooks.conductor.probing import Probe
from svdhooks.distributed.team import Team
from svdhooks.flow import INPUT, UNKNOWN, Flow
from svdhooks.flow.pairs import FoundPairs, find_pairs, user_pairs
from svdhooks.layers import find_layers
from svdhooks.probe import ProbeOptions, ReferenceBatch
from svdhooks.reports import Reporter
from tests.models import Reused, Tied, Uncalled, mlp


def traced(model: nn.Module, batch: Any) -> Flow:
    """As a probe finds it."""
    reporter = Reporter("raise")
    probing = Probe(model, ProbeOptions(), None, reporter, lambda: False, Team())
    probing.rehearse(ReferenceBatch.given(batch), find_layers(model).layers)
    assert probing.flow
    return probing.flow


def found_in(model: nn.Module, batch: Any, **options: Any) -> FoundPairs:
    layers = find_layers(model).layers
    return find_pairs(traced(model, batch), layers, model=model, **options)


def plain(found: FoundPairs) -> dict[str, str]:
    """Name -> kind of the plain pairs."""
    return {pair.name: pair.kind for pair in found.pairs if not pair.stream}


def streams(found: FoundPairs) -> set[str]:
    return {pair.name for pair in found.pairs if pair.stream}


def reasons(found: FoundPairs) -> dict[str, str]:
    return {f"{source}->{target}": reason for source, target, reason in found.refused}


class Net(nn.Module):
    """A forward written as a function."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self._function = forward

    def forward(self, *args: Any) -> Any:
        return self._function(self, *args)


def two(between: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> Net:
    """Two layers, what is between them, and what that needs."""
    sizes = {"a": nn.Linear(5, 6), "b": nn.Linear(6, 3)}
    return Net(lambda net, x: net.b(between(net, net.a(x))), **(sizes | parts))


def test_a_perceptron_with_norms_and_dropout():
    net = nn.Sequential(
        nn.Linear(5, 7),
        nn.BatchNorm1d(7),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(7, 6),
        nn.LayerNorm(6),
        nn.GELU(),
        nn.Linear(6, 3),
    )
    found = found_in(net, torch.randn(4, 5))
    assert plain(found) == {"0->4": "fc-fc", "4->7": "fc-fc"}
    assert found.refused == ()
    first, second = found.pairs
    assert first.norm is net[1]
    assert second.norm is None
    assert (first.features, first.positions, first.stream) == (7, 1, False)


def test_a_norm_that_cannot_be_folded_into_the_layer_is_not_named():
    norms = [
        nn.Sequential(nn.ReLU(), nn.BatchNorm1d(6)),
        nn.Sequential(nn.BatchNorm1d(6), nn.BatchNorm1d(6)),
        nn.LayerNorm(6),
    ]
    for norm in norms:
        found = found_in(two(lambda net, z: net.norm(z), norm=norm), torch.randn(4, 5))
        assert [pair.norm for pair in found.pairs] == [None]
    net = two(lambda net, z: net.norm(z), norm=nn.BatchNorm1d(6))
    assert found_in(net, torch.randn(4, 5)).pairs[0].norm is net.norm
    layers = find_layers(net).layers
    (pair,) = find_pairs(traced(net, torch.randn(4, 5)), layers).pairs
    assert pair.norm is None  # no model was given


def test_a_convolutional_network():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(100, 5),
    )
    found = found_in(net, torch.randn(2, 3, 16, 16))
    assert plain(found) == {"0->4": "conv-conv", "4->7": "conv-fc"}
    assert [(p.features, p.positions) for p in found.pairs] == [(8, 9), (4, 25)]
    assert found.pairs[0].norm is net[1]
    assert found.refused == ()


def test_a_map_is_averaged_before_the_head_or_reshaped_by_hand():
    ends = [
        lambda z: F.adaptive_avg_pool2d(z, 1).flatten(1),
        lambda z: z.mean((2, 3)),
        lambda z: z.mean((-1, -2), keepdim=True)[:, :, 0, 0],
        lambda z: z.amax(3).amax(2),
        lambda z: z.reshape(2, 6, -1).mean(-1),
        lambda z: z.permute(0, 2, 3, 1).reshape(-1, 6),
        lambda z: F.interpolate(F.pad(z, (1, 1, 1, 1)), scale_factor=2).mean((2, 3)),
    ]
    for end in ends:
        net = Net(
            lambda net, x, end=end: net.b(end(net.a(x).relu())),
            a=nn.Conv2d(3, 6, 3),
            b=nn.Linear(6, 3),
        )
        found = found_in(net, torch.randn(2, 3, 9, 7))
        assert plain(found) == {"a->b": "conv-fc"}, found.refused
        assert found.pairs[0].positions == 1


def test_a_map_that_is_flattened_position_by_position_is_refused():
    ends = [
        lambda z: z.permute(0, 2, 3, 1).flatten(1),
        lambda z: z.flatten(2).mT.flatten(1),
        lambda z: z.unflatten(1, (2, 3)).transpose(1, 2).flatten(1),  # a shuffle
        lambda z: z[:, torch.arange(5, -1, -1)].flatten(1),
        lambda z: z[:, [1, 0, 2, 3, 4, 5]].flatten(1),
        lambda z: z.flip(1).flatten(1),
        lambda z: z.roll(1, 1).flatten(1),
        lambda z: F.pixel_shuffle(F.pad(z, (0, 0, 0, 0, 1, 1)), 2).flatten(1)[:, :108],
        lambda z: torch.cat([z[:, :3], z[:, 3:]], 1).flatten(1),
        lambda z: z.softmax(1).flatten(1),
        lambda z: z.cumsum(1).flatten(1),
        lambda z: torch.from_numpy(z.numpy()).flatten(1),
    ]
    for number, end in enumerate(ends):
        width = end(torch.zeros(2, 6, 6, 3)).shape[1]
        net = Net(
            lambda net, x, end=end: net.b(end(net.a(x))),
            a=nn.Conv2d(3, 6, 3),
            b=nn.Linear(width, 3),
        )
        found = found_in(net, torch.randn(2, 3, 8, 5))
        assert found.pairs == (), number
        ((source, target, reason),) = found.refused
        assert (source in {"a", UNKNOWN}, target, bool(reason)) == (True, "b", True)


def test_channels_that_are_looked_at_as_a_map_again():
    net = Net(
        lambda net, x: net.b(net.a(x).relu()[:, :, None, None].expand(-1, -1, 4, 4)),
        a=nn.Linear(5, 6),
        b=nn.Conv2d(6, 2, 3),
    )
    found = found_in(net, torch.randn(3, 5))
    assert plain(found) == {"a->b": "fc-conv"}
    assert found.pairs[0].positions == 9
    spread = Net(
        lambda net, x: net.b(net.a(x).view(-1, 6, 4, 4)),
        a=nn.Linear(5, 96),
        b=nn.Conv2d(6, 2, 3),
    )
    found = found_in(spread, torch.randn(3, 5))
    assert found.pairs == ()
    assert "split" in reasons(found)["a->b"]


SEQUENCES = [
    lambda z: z[:, -1],
    lambda z: z[:, 0],
    lambda z: z[..., :2, :].mean(1),
    lambda z: z.transpose(0, 1)[0],
    lambda z: z.unbind(1)[3],
    lambda z: z.chunk(2, 1)[1].sum(1),
    lambda z: z.mT.mT,
    lambda z: z.reshape(-1, 6),
    lambda z: z * torch.arange(6.0) + torch.ones(7, 6),
    lambda z: F.dropout(z, 0.5, training=True),
    lambda z: F.normalize(z, dim=-1),
    lambda z: z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-6),
    lambda z: (z - z.mean(-1, keepdim=True)) / z.std(-1, keepdim=True),
    lambda z: torch.cat([torch.zeros(2, 1, 6), z], 1),
    lambda z: z.to(torch.float64).float() * torch.sigmoid(z),
]


@pytest.mark.parametrize("number", range(len(SEQUENCES)))
def test_positions_may_be_picked_and_scaled(number):
    # as many positions as features are a trap for who looks at the shapes alone
    between = SEQUENCES[number]
    found = found_in(two(lambda _, z: between(z)), torch.randn(2, 7, 5))
    assert plain(found) == {"a->b": "fc-fc"}
    assert found.refused == ()


def test_strides_tell_apart_axes_that_are_as_long():
    found = found_in(two(lambda _, z: z.mT), torch.randn(2, 6, 5))
    assert "axis -2" in reasons(found)["a->b"]
    found = found_in(two(lambda _, z: z[:, 0]), torch.randn(2, 6, 5))
    assert plain(found) == {"a->b": "fc-fc"}
    found = found_in(two(lambda _, z: z[:, :, 0]), torch.randn(2, 6, 5))
    assert "only a part" in reasons(found)["a->b"]


def test_two_sources_that_are_multiplied_are_refused():
    net = Net(
        lambda net, x: net.down(F.silu(net.gate(x)) * net.up(x)),
        gate=nn.Linear(5, 6),
        up=nn.Linear(5, 6),
        down=nn.Linear(6, 5),
    )
    found = found_in(net, torch.randn(4, 5))
    assert found.pairs == ()
    assert set(reasons(found)) == {"gate->down", "up->down"}
    assert all("gate" in reason for _, _, reason in found.refused)


def test_squeeze_and_excitation_is_a_product():
    def forward(net: Any, x: Tensor) -> Tensor:
        z = net.a(x)
        return net.b(z * net.c(z.mean((2, 3), keepdim=True)).sigmoid())

    parts = {"a": nn.Conv2d(3, 6, 3), "b": nn.Conv2d(6, 2, 1), "c": nn.Conv2d(6, 6, 1)}
    found = found_in(Net(forward, **parts), torch.randn(2, 3, 9, 8))
    assert plain(found) == {"a->c": "conv-conv"}
    assert set(reasons(found)) == {"a->b", "c->b"}


def test_a_mask_of_the_input_is_no_second_source():
    net = Net(
        lambda net, x, mask: net.b(net.a(x) * mask[..., None]),
        a=nn.Linear(5, 6),
        b=nn.Linear(6, 3),
    )
    batch = (torch.randn(2, 7, 5), torch.ones(2, 7))
    assert plain(found_in(net, batch)) == {"a->b": "fc-fc"}
    gated = Net(
        lambda net, x, gate: net.b(net.a(x) * gate),
        a=nn.Linear(5, 6),
        b=nn.Linear(6, 3),
    )
    assert found_in(gated, (torch.randn(2, 5), torch.randn(2, 6))).pairs == ()


def test_concatenations_are_refused():
    net = Net(
        lambda net, x: net.b(torch.cat([y := net.a(x), net.c(y.relu())], 1).relu()),
        a=nn.Conv2d(3, 6, 3, padding=1),
        c=nn.Conv2d(6, 6, 3, padding=1),
        b=nn.Conv2d(12, 2, 1),
    )
    found = found_in(net, torch.randn(2, 3, 8, 8))
    assert plain(found) == {"a->c": "conv-conv"}
    assert set(reasons(found)) == {"a->b", "c->b"}
    assert all("concatenated" in reason for _, _, reason in found.refused)


def test_grouped_convolutions_are_refused_with_the_reason():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 2, 1)
    )
    found = found_in(net, torch.randn(2, 3, 8, 8))
    assert found.pairs == ()
    assert set(reasons(found)) == {"0->1", "1->2"}
    assert all("6 groups" in reason for _, _, reason in found.refused)


def test_layers_that_are_called_often_and_weights_that_are_shared():
    found = found_in(Reused(), torch.randn(4, 5))
    assert plain(found) == {"cell->cell": "fc-fc", "cell->out": "fc-fc"}
    siamese = Net(
        lambda net, x, y: [net.b(net.a(z).relu()) for z in (x, y)],
        a=nn.Linear(5, 4),
        b=nn.Linear(4, 3),
    )
    found = found_in(siamese, (torch.randn(4, 5), torch.randn(2, 5)))
    assert plain(found) == {"a->b": "fc-fc"}
    found = found_in(Tied(), torch.randint(0, 13, (2, 4)))
    assert plain(found) == {"embedding->body": "fc-fc", "body->head": "fc-fc"}


def test_what_is_not_watched_is_not_looked_through():
    found = found_in(Uncalled(), torch.randn(3, 4))
    assert found.pairs == ()
    net = mlp(5, 6, 7, 3)
    flow = traced(net, torch.randn(4, 5))
    layers = [x for x in find_layers(net).layers if x.name != "2"]
    found = find_pairs(flow, layers)
    assert found.pairs == ()


def test_an_unknown_origin_is_refused():
    net = two(lambda _, z: z + torch.from_numpy(np.ones((4, 6), np.float32)))
    found = found_in(net, torch.randn(4, 5))
    assert found.pairs == ()  # it may be a block that reads a's output and joins it
    assert set(reasons(found)) == {f"{UNKNOWN}->b", "a->b"}
    assert INPUT not in str(found.refused)
    assert streams(found_in(net, torch.randn(4, 5), streams="all")) == {"a->b"}


@pytest.mark.usefixtures("as_a_user_calls")
def test_an_unknown_kind_of_streams_is_refused():
    with pytest.raises(ValueError, match="expected one of next, all, none"):
        find_pairs(Flow(), [], streams="some")


def test_pairs_of_the_user():
    net = mlp(5, 6, 7, 3)
    layers = find_layers(net).layers
    first, second = user_pairs([("0", "2"), ("2", "4")], layers)
    assert (first.name, second.name) == ("0->2", "2->4")
    with pytest.raises(ValueError, match="no layer '22'"):
        user_pairs([("0", "22")], layers)
    with pytest.raises(ValueError, match="'0' with 6 outputs and '4' with 7 inputs"):
        user_pairs([("0", "4")], layers)
