"""Which layers are found, under which names, and what is skipped with which reason."""

import pytest
import torch
from torch import nn

from svdhooks.layers import find_layers, named_modules, unwrap
from tests.models import Tied, mlp


def _names(model: nn.Module, **options: object) -> list[str]:
    return [layer.name for layer in find_layers(model, **options).layers]


def _reasons(model: nn.Module) -> dict[str, str]:
    return {s.name: s.reason for s in find_layers(model).skipped}


def test_linear_conv_and_embedding_are_matrices_out_by_in():
    model = nn.ModuleDict({
        "linear": nn.Linear(5, 3),
        "conv1d": nn.Conv1d(4, 6, 3),
        "conv2d": nn.Conv2d(2, 8, (3, 5)),
        "conv3d": nn.Conv3d(2, 3, 2),
        "embedding": nn.Embedding(10, 4),
    })
    table = find_layers(model)
    assert {x.name: x.shape for x in table.layers} == {
        "linear": (3, 5),
        "conv1d": (6, 12),
        "conv2d": (8, 30),
        "conv3d": (3, 16),
        "embedding": (4, 10),
    }
    for layer in table.layers:
        assert tuple(layer.weight().shape) == layer.shape
        assert not layer.weight().requires_grad
    assert table.skipped == ()


def test_grouped_convolution_is_a_batch_of_blocks():
    conv = nn.Conv2d(4, 8, 3, groups=2)
    (layer,) = find_layers(nn.Sequential(conv)).layers
    assert layer.shape == (4, 18)
    assert layer.rank_limit == 8
    blocks = layer.weight()
    assert blocks.shape == (2, 4, 18)
    torch.testing.assert_close(blocks[1], conv.weight[4:].flatten(1).detach())


def test_block_diagonal_map_of_a_grouped_convolution_has_the_blocks_spectra():
    conv = nn.Conv1d(6, 4, 1, groups=2, bias=False)
    (layer,) = find_layers(nn.Sequential(conv)).layers
    dense = torch.block_diag(*layer.weight())
    x = torch.randn(3, 6)
    torch.testing.assert_close(conv(x.unsqueeze(-1)).squeeze(-1), x @ dense.T)


@pytest.mark.parametrize("same_width", [True, False])
def test_attention_has_its_four_projections(same_width: bool):
    widths = {} if same_width else {"kdim": 6, "vdim": 10}
    attention = nn.MultiheadAttention(8, 2, **widths)
    layers = find_layers(nn.ModuleDict({"attn": attention})).layers
    found = {x.name: x.weight() for x in layers}
    assert list(found) == [f"attn.{p}_proj" for p in ("q", "k", "v", "out")]
    if same_width:
        stacked = torch.cat([found[f"attn.{p}_proj"] for p in "qkv"])
        torch.testing.assert_close(stacked, attention.in_proj_weight.detach())
    else:
        assert found["attn.v_proj"].shape == (8, 10)
    torch.testing.assert_close(
        found["attn.out_proj"], attention.out_proj.weight.detach()
    )


def test_tied_weights_are_owned_by_the_first_name():
    layers = {x.name: x for x in find_layers(Tied()).layers}
    assert layers["head"].tied_to == "embedding"
    assert layers["embedding"].tied_to is None
    assert layers["body"].tied_to is None


def test_equal_but_separate_weights_are_not_tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].load_state_dict(model[0].state_dict())
    assert all(x.tied_to is None for x in find_layers(model).layers)


def test_weights_made_anew_by_a_property_are_not_tied():
    class Circulant(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 3)
            self.row = nn.Parameter(torch.randn(3))
            del self._parameters["weight"]

        @property
        def weight(self) -> torch.Tensor:
            return torch.stack([self.row.roll(i) for i in range(3)])

    several = {name: nn.ModuleDict({"c": Circulant()}) for name in "abcd"}
    layers = find_layers(nn.ModuleDict(several)).layers
    assert len(layers) == 4
    assert all(x.tied_to is None for x in layers)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_scripted_modules_are_listed():
    scripted = torch.jit.script(nn.Linear(2, 3))
    model = nn.ModuleDict({"plain": nn.Linear(2, 2), "scripted": scripted})
    assert _names(model) == ["plain"]
    assert "scripted.weight" in _reasons(model)


def test_a_shared_module_is_one_layer_under_its_first_name():
    shared = nn.Linear(3, 3)
    assert _names(nn.ModuleDict({"a": shared, "b": shared})) == ["a"]


def test_names_carry_no_wrapper_prefixes():
    inner = nn.Sequential(nn.Linear(2, 2))
    compiled = torch.compile(inner, backend="eager")
    assert unwrap(compiled) is inner
    assert _names(compiled) == ["0"]
    nested = nn.ModuleDict({"net": torch.compile(mlp(2, 3, 2), backend="eager")})
    assert _names(nested) == ["net.0", "net.2"]
    parallel = nn.ModuleDict({"net": nn.DataParallel(nn.Linear(2, 2))})
    assert _names(parallel) == ["net"]


def test_a_user_module_called_module_keeps_its_name():
    assert _names(nn.ModuleDict({"module": nn.Linear(2, 2)})) == ["module"]


def test_the_root_is_named_after_its_class():
    assert _names(nn.Linear(2, 2)) == ["linear"]
    assert next(iter(named_modules(mlp(2, 2))))[0] == "sequential"


def test_what_is_not_watched_is_listed_with_the_reason():
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.table = nn.Parameter(torch.zeros(3, 4))
            self.scale = nn.Parameter(torch.zeros(3))
            self.norm = nn.LayerNorm((2, 3))
            self.old = nn.Linear(2, 2)
            self.old._parameters["weight_g"] = nn.Parameter(torch.ones(2, 1))
            weight = self.old._parameters.pop("weight")
            self.old.weight = weight.detach()

    reasons = _reasons(Holder())
    assert "Holder" in reasons["holder.table"]
    assert "LayerNorm" in reasons["norm.weight"]
    assert "parametrizations" in reasons["old"]
    assert not any("scale" in name for name in reasons)


def test_quantised_and_integer_weights_are_skipped():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = nn.Parameter(
        torch.zeros(2, 2, dtype=torch.int8), requires_grad=False
    )
    assert _names(model) == ["a"]
    assert "int8" in _reasons(model)["b"]


def test_float8_weights_are_skipped():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = nn.Parameter(
        torch.zeros(2, 2).to(torch.float8_e4m3fn), requires_grad=False
    )
    assert "float8" in _reasons(model)["b"]


def test_lazy_modules_may_still_become_layers():
    model = nn.Sequential(nn.LazyLinear(3))
    table = find_layers(model)
    assert table.incomplete
    assert table.layers == ()
    model(torch.zeros(1, 5))
    table = find_layers(model)
    assert not table.incomplete
    assert table.layers[0].shape == (3, 5)


def test_reading_a_spectral_norm_weight_moves_no_buffer():
    """Hazard 9: two reads are equal."""
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))
    before = [b.clone() for b in layer.buffers()]
    (found,) = find_layers(nn.Sequential(layer)).layers
    first, second = found.weight().clone(), found.weight()
    found.describe()
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert all(map(torch.equal, before, layer.buffers()))
    assert layer.parametrizations.weight[0].training


def test_the_plain_attribute_would_have_moved_them():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))
    before = [b.clone() for b in layer.buffers()]
    _ = layer.weight
    assert not all(map(torch.equal, before, layer.buffers()))


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ("0", ["0"]),
        ("*", ["0", "2", "4"]),
        (["0", "4"], ["0", "4"]),
        (nn.Linear, ["0", "2", "4"]),
        (lambda name, module: module.out_features == 2, ["4"]),
        (["0", lambda name, module: name == "2"], ["0", "2"]),
    ],
)
def test_layers_are_selected_by_glob_type_and_predicate(select, expected):
    assert _names(mlp(3, 4, 5, 2), select=select) == expected


def test_layers_left_out_by_selection_are_listed():
    table = find_layers(mlp(3, 4, 5, 2), "0")
    assert {s.name for s in table.skipped} == {"2", "4"}


def test_a_selection_that_matches_nothing_says_what_there_is():
    with pytest.raises(ValueError, match=r"matches no layer.*0, 2"):
        find_layers(mlp(2, 2, 2), "encoder.*")


@pytest.mark.usefixtures("as_a_user_calls")
def test_a_selector_of_a_wrong_kind_is_refused():
    with pytest.raises(TypeError, match="expected a glob"):
        find_layers(mlp(2, 2), 3)
    with pytest.raises(TypeError, match="expected a glob"):
        find_layers(mlp(2, 2), int)


@pytest.mark.usefixtures("as_a_user_calls")
def test_a_model_without_layers_is_refused():
    with pytest.raises(ValueError, match="no layer that can be watched"):
        find_layers(nn.ReLU())
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        find_layers("model")


def test_a_model_on_the_meta_device_is_refused_with_advice():
    with torch.device("meta"):
        model = mlp(3, 4)
    with pytest.raises(ValueError, match="Materialise the model"):
        find_layers(model)
