"""Weights that are computed: what is read is what the next forward would apply."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from svdhooks.layers import find_layers

OLD = {
    "weight_norm": nn.utils.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
}
NEW = {
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "spectral_norm": parametrizations.spectral_norm,
}

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


def _read(module: nn.Module) -> torch.Tensor:
    (layer,) = find_layers(nn.ModuleDict({"m": module})).layers
    return layer.weight()


def _applied(module: nn.Module, width: int) -> torch.Tensor:
    """The weight by what the module does to each unit vector."""
    module.eval()
    with torch.no_grad():
        return module(torch.eye(width, dtype=torch.float64)).T


@pytest.mark.parametrize("kind", [*OLD, *(f"new {name}" for name in NEW)])
def test_the_weight_is_what_the_next_forward_applies(kind):
    """Hazard 9 and 10: of both kinds of parametrization."""
    wrap = NEW[kind.removeprefix("new ")] if kind.startswith("new ") else OLD[kind]
    module = wrap(nn.Linear(5, 4, bias=False).double())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(3.0)  # as an optimiser does, after the last forward
    before = {k: v.clone() for k, v in module.state_dict().items()}
    found = _read(module.train())
    torch.testing.assert_close(found, _applied(module, 5))
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_plain_attribute_of_an_old_weight_norm_would_be_stale():
    """The companion: 2.94 is applied, the attribute still says 0.98."""
    module = nn.utils.weight_norm(nn.Linear(5, 4, bias=False).double())
    stale = torch.linalg.svdvals(module.weight.detach())[0]
    with torch.no_grad():
        module.weight_g.mul_(3.0)
    assert torch.linalg.svdvals(module.weight.detach())[0] == stale
    torch.testing.assert_close(torch.linalg.svdvals(_read(module))[0], 3 * stale)


def test_an_old_spectral_norm_takes_the_stored_vectors():
    module = nn.utils.spectral_norm(nn.Linear(6, 5)).train()
    u = module.weight_u.clone()
    read = _read(module)
    sigma = u @ module.weight_orig @ module.weight_v
    torch.testing.assert_close(read, (module.weight_orig / sigma).detach())
    assert torch.equal(module.weight_u, u)


def test_an_old_style_convolution_and_gate_are_read_too():
    conv = nn.utils.weight_norm(nn.Conv1d(4, 6, 3).double())
    lstm = nn.utils.weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    with torch.no_grad():
        conv.weight_g.mul_(2.0)
        lstm.weight_hh_l0_g.mul_(2.0)
    unit = conv.weight_v / conv.weight_v.flatten(1).norm(dim=1)[:, None, None]
    expected = (unit * conv.weight_g).flatten(1)
    torch.testing.assert_close(_read(conv), expected.detach())
    layers = {x.name: x for x in find_layers(nn.ModuleDict({"m": lstm})).layers}
    v, g = lstm.weight_hh_l0_v, lstm.weight_hh_l0_g
    torch.testing.assert_close(
        layers["m.weight_hh_l0.i"].weight(),
        (g * v / v.norm(dim=1, keepdim=True))[:4].detach(),
    )


@pytest.mark.parametrize("kind", [*OLD, *(f"new {name}" for name in NEW)])
def test_all_that_a_weight_is_computed_from_is_named(kind):
    wrap = NEW[kind.removeprefix("new ")] if kind.startswith("new ") else OLD[kind]
    module = wrap(nn.Linear(5, 4, bias=False))
    (layer,) = find_layers(nn.ModuleDict({"m": module})).layers
    known = {id(x) for x in layer.sources()}
    assert {id(x) for x in (*module.parameters(), *module.buffers())} <= known
    assert layer.computed
    assert layer.tied_to is None


def test_a_plain_weight_is_its_own_source():
    module = nn.Linear(3, 3)
    (layer,) = find_layers(nn.ModuleDict({"m": module})).layers
    assert layer.sources() == (module.weight,)
    assert not layer.computed
