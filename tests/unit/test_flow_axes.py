"""Which axis holds the features: told by the call, and checked by derivatives."""

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from svdhooks.flow.pairs import FoundPairs
from tests.mixing import aligned, random_chain
from tests.unit.test_flow_pairs import found_in, plain, reasons, two


@pytest.mark.parametrize(
    "between",
    [
        lambda z: z.mean(1),
        lambda z: z.sum(dim=[-2]),
        lambda z: z.max(1).values,
        lambda z: torch.linalg.vector_norm(z, 2, 1),
        lambda z: z.var(1),
        lambda z: z.unsqueeze(1).mean((1, 2)),
        lambda z: z.type_as(z + 1),
        lambda z: z + torch.ones(6).expand_as(z),
        lambda z: F.pad(z, (0, 0, 1, -1)),
    ],
)
def test_the_call_tells_which_axis_is_reduced(between):
    # as many samples and positions as features
    found = found_in(two(lambda _, z: between(z)), torch.randn(6, 6, 5))
    assert plain(found) == {"a->b": "fc-fc"}


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (lambda z: z.mean(2), "statistic"),
        (lambda z: z.max(1).indices.float(), "'max to integers'"),
        (lambda z: F.pad(z, (1, -1)), "'pad'"),
        (lambda z: z[..., 0].mT.expand(6, 6, 6), "only a part"),
    ],
)
def test_what_is_reduced_or_moved_along_the_features_is_refused(between, reason):
    found = found_in(two(lambda _, z: between(z)), torch.randn(6, 6, 5))
    assert reason in reasons(found)["a->b"]


def test_what_takes_its_shape_alone_from_an_output_does_not_come_from_it():
    net = two(lambda net, z: net.pattern.type_as(z).expand_as(z))
    net.register_buffer("pattern", torch.randn(6))
    assert found_in(net, torch.randn(2, 7, 5)) == FoundPairs()


def test_a_batch_norm_of_a_flattened_map_does_not_hide_the_pair():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 2)
    )
    (pair,) = found_in(net, torch.randn(3, 1, 5, 5)).pairs
    assert (pair.name, pair.positions, pair.norm) == ("0->3", 9, None)


@pytest.mark.parametrize("chains", [25, pytest.param(400, marks=pytest.mark.slow)])
def test_a_pair_reads_each_feature_where_the_other_layer_wrote_it(chains):
    """Derivatives say which entries of an input each feature reaches."""
    accepted, refused, draw = 0, 0, random.Random(chains)
    torch.manual_seed(chains)
    for _ in range(chains):
        net, x = random_chain(draw)
        truth = aligned(net, x)
        found = found_in(net, x)
        names = {(pair.earlier.name, pair.later.name) for pair in found.pairs}
        assert all(truth[both] for both in names), net.ways
        accepted += len(names)
        refused += len(truth) - len(names)
        # a fully connected layer whose outputs are flattened with positions is no kind
        known = [why for *_, why in found.refused if "with 4 outputs" in why]
        assert net.spoilt or all(truth.values()), net.ways
        assert net.spoilt or len(names) + len(known) == len(truth), (net.ways, found)
    assert min(accepted, refused) > chains / 4
