"""Of the outputs of a whole batch no more is held than fits, and nothing is lost by it."""

import pytest
import torch
from torch import Tensor, nn

from svdhooks.jacobians import Differentiator, JacobianOptions
from svdhooks.jacobians.thinned import AT_ONCE, Thinned
from svdhooks.layers import PointValue, find_layers
from svdhooks.probe import ReferenceBatch
from tests.jacobians import assert_spectra, one_of, spectra_by_hand
from tests.models import mlp


def test_what_is_kept_fits_and_is_the_same_of_some_samples():
    z, parts = torch.randn(8, 5, 100), AT_ONCE * 3
    thinned = Thinned(parts * 8 * 5 * 10 * 4, 3)
    kept = thinned("a", PointValue(z)).tensor
    assert kept.shape == (8, 5, 10)
    some = thinned("a", PointValue(z[:2])).tensor
    assert torch.equal(some, kept[:2])
    images = thinned("b", PointValue(z.movedim(-1, 1), 1)).tensor
    assert torch.equal(images, kept.movedim(-1, 1))
    small = thinned("c", PointValue(z[..., :9])).tensor
    assert torch.equal(small, z[..., :9])
    assert thinned.names == {"a", "b"}
    whole = thinned.whole("a", PointValue(kept)).tensor
    assert whole.shape == z.shape
    assert whole.untyped_storage().nbytes() == 4


class Grouped(nn.Module):
    """Positions first, windows side by side, and one feature in many that is alive."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 40)
        self.rare = nn.Linear(40, 40)
        self.head = nn.Linear(40, 5)
        with torch.no_grad():
            self.rare.weight[:-1] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        z = self.rare(torch.tanh(self.first(x.transpose(0, 1))))
        return self.head(torch.tanh(z))


@pytest.mark.parametrize("bound", [2**28, 9 * 4 * 6 * 40 * 8])
def test_spectra_do_not_depend_on_what_is_kept(bound):
    model, x = Grouped().double(), torch.randn(9, 4, 6, dtype=torch.float64)
    differentiator = Differentiator(model, None, JacobianOptions(max_bytes=bound))
    layers, batch = find_layers(model).layers, ReferenceBatch.given(x)
    found = differentiator.measure(layers, batch)
    expected = spectra_by_hand(model, ["first", "rare", "head"], one_of(x), 9)
    for name, sigma in expected.items():
        assert found[name].status == "ok"
        assert_spectra(found[name].spectra, sigma, 1e-9)


def test_sizes_are_those_of_the_whole_output():
    model, x = mlp(6, 400, 300, 3), ReferenceBatch.given(torch.randn(64, 6))
    options = JacobianOptions(max_bytes=100_000)
    found = Differentiator(model, None, options).measure(find_layers(model).layers, x)
    assert [found[name].outputs for name in "024"] == [400, 300, 3]
    assert all(each.ok for each in found.values())
