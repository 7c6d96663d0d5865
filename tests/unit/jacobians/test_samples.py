"""Where samples are in the output of a layer, and how a batch is taken apart."""

import pytest
import torch
from torch import Tensor

from svdhooks.jacobians.samples import (
    MIXED,
    NO_SAMPLE,
    Layout,
    evenly,
    find_layouts,
    layout_of,
    sliceable_axes,
)
from svdhooks.layers import PointValue

N = 5
MOVES = {
    "samples first": (lambda x: x, Layout(0)),
    "positions first": (lambda x: x.transpose(0, 1), Layout(1)),
    "blocks": (lambda x: x.flatten(0, 1), Layout(0, blocks=True)),
    "strided": (lambda x: x.transpose(0, 1).flatten(0, 1), Layout(0, blocks=False)),
    "last": (lambda x: x.movedim(0, -1), Layout(2)),
}


def layouts(function, base: Tensor):
    noise = torch.randn_like(base)

    def perturbed(samples: Tensor) -> dict[str, Tensor]:
        return {"z": function(base + noise * samples.reshape(-1, 1, 1))}

    plain = {"z": function(base)}
    return find_layouts(plain, plain, perturbed, N, (N - 1).bit_length())["z"]


@pytest.mark.parametrize("how", MOVES)
def test_perturbing_samples_shows_where_they_are(how):
    move, expected = MOVES[how]
    assert layouts(move, torch.randn(N, 3, 4)) == expected


@pytest.mark.parametrize("how", MOVES)
def test_a_layout_gives_each_sample_its_entries(how):
    move, layout = MOVES[how]
    x = torch.arange(N).reshape(N, 1, 1) * 100 + torch.arange(12).reshape(1, 3, 4)
    axis = -1 if how != "last" else -2
    rows = layout.arranged(PointValue(move(x.float()), axis), N, "all")
    for sample in range(N):
        assert sorted(rows[sample]) == sorted(x[sample].flatten())


def test_positions_are_chosen_or_averaged():
    x = torch.randn(N, 3, 4)
    for move, layout in (MOVES["samples first"], MOVES["strided"]):
        value = PointValue(move(x))
        mean = layout.arranged(value, N, "mean")
        torch.testing.assert_close(mean, x.mean(1))
        torch.testing.assert_close(layout.arranged(value, N, -1), x[:, -1])
        with pytest.raises(IndexError, match="3 positions"):
            layout.arranged(value, N, 3)
    channels = PointValue(torch.randn(N, 4, 2, 3), -3)
    assert Layout(0).arranged(channels, N, "mean").shape == (N, 4)
    pooled = torch.randn(N, 4)
    torch.testing.assert_close(Layout(0).arranged(PointValue(pooled), N, 2), pooled)


def test_one_entry_that_depends_on_two_samples_is_enough():
    def mixing(x: Tensor) -> Tensor:
        z = x.clone()
        z[2, 1, 1] += x[4, 0, 0]
        return z

    assert layouts(mixing, torch.randn(N, 3, 4)) == "together"


def test_entries_that_do_not_change_are_no_evidence():
    def dead(x: Tensor) -> Tensor:
        return torch.relu(x - torch.tensor([0.0, 0.0, 99.0, 0.0])).flatten(0, 1)

    assert layouts(dead, torch.randn(N, 3, 4)) == Layout(0)
    assert layouts(lambda x: 0 * x, torch.randn(N, 3, 4)) == "unmoved"


def test_rows_whose_number_depends_on_the_data_are_unlike():
    def routed(x: Tensor) -> Tensor:
        return x[x[:, :, 0] > 0]

    assert layouts(routed, torch.randn(N, 3, 4)) == "unlike"


def test_noise_of_the_model_itself_is_no_change():
    base = {"z": torch.randn(4, 3)}
    again = {"z": base["z"] + 1e-6}

    def perturbed(samples: Tensor) -> dict[str, Tensor]:
        return {"z": base["z"] + 2e-6 + samples.reshape(-1, 1)}

    assert find_layouts(base, again, perturbed, 4, 2)["z"] == Layout(0)


def test_what_fits_no_axis_is_together():
    assert layout_of(torch.tensor([0, 1, 1, 0]), 2) == "together"
    assert layout_of(torch.tensor([0, MIXED]), 2) == "together"
    assert layout_of(torch.tensor([NO_SAMPLE, NO_SAMPLE]), 2) == "unmoved"


def test_samples_of_a_larger_batch_are_evenly_spread():
    assert evenly(10, 5) == [0, 2, 4, 6, 8]
    assert evenly(3, 5) == evenly(3, None) == [0, 1, 2]
    assert len(set(evenly(100, 32))) == 32


def test_the_likeliest_way_of_taking_samples_comes_first():
    batch = [torch.zeros(4, 7), torch.zeros(7, 4), torch.zeros(2)]
    assert sliceable_axes(batch, 4, 0, 0)[0] == {0: 0, 1: 1}
    assert {0: 0} in sliceable_axes(batch, 4, 0, 0)
    assert sliceable_axes([torch.zeros(3)], 4, 0, None) == []
