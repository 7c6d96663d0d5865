"""Which layer feeds which, against what is written in the models."""

import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from svdhooks.conductor.probing import Probe
from svdhooks.distributed.team import Team
from svdhooks.flow import INPUT, UNKNOWN, Edge, Flow
from svdhooks.layers import find_layers
from svdhooks.probe import ProbeOptions, ReferenceBatch
from svdhooks.reports import Reporter
from tests.models import InPlace, Reused, TwoInputs, Uncalled, mlp


def flow_of(model: nn.Module, probe: Any, forward: Any = None) -> Flow:
    """As a probe finds it."""
    layers = find_layers(model).layers
    reporter = Reporter("raise")
    probing = Probe(model, ProbeOptions(), forward, reporter, lambda: False, Team())
    probing.rehearse(ReferenceBatch.given(probe), layers)
    return probing.flow


def ways(flow: Flow, name: str) -> dict[str, tuple[str, ...]]:
    """Source -> names of the operations on the way."""
    return {e.source: tuple(o.name for o in e.operations) for e in flow.sources(name)}


class Net(nn.Module):
    """A forward written as a function."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self._function = forward

    def forward(self, *args: Any) -> Any:
        return self._function(self, *args)


def two(between: Callable[[Any, Tensor], Tensor], width: int = 6) -> Net:
    """Two layers and what is between them."""
    return Net(
        lambda net, x: net.b(between(net, net.a(x))),
        a=nn.Linear(5, width),
        b=nn.Linear(width, 3),
    )


def test_a_plain_network():
    flow = flow_of(mlp(5, 7, 6, 3), torch.randn(4, 5))
    assert ways(flow, "0") == {INPUT: ("to",)}
    assert ways(flow, "2") == {"0": ("relu",)}
    assert ways(flow, "4") == {"2": ("relu",)}
    assert all(edge.alone for edge in flow.edges())
    assert flow.relu_chain("4") == ("0", "2", "4")
    assert flow.relu_chain("0") == ("0",)
    assert [flow.activated(name) for name in ("0", "2", "4")] == ["2", "4", None]


ACTIVATIONS = [
    lambda _, z: F.relu(z),
    lambda _, z: F.relu(z, inplace=True),
    lambda _, z: z.relu_(),
    lambda _, z: torch.clamp(z, min=0),
    lambda _, z: F.gelu(z),
    lambda _, z: z * torch.sigmoid(1.7 * z),
    # GPT-2's own
    lambda _, z: 0.5 * z * (1 + torch.tanh(0.8 * (z + 0.04 * torch.pow(z, 3.0)))),
    lambda _, z: F.dropout(F.leaky_relu(z, 0.1), 0.5, training=False),
    lambda _, z: torch.where(z > 0, z, 0.0),
    lambda _, z: z.masked_fill(z < 0, 0.0),
    lambda _, z: torch.nn.PReLU(z.shape[-1])(z),
    lambda _, z: z.to(torch.float64).tanh().float(),
    lambda _, z: z,
    lambda _, z: torch.maximum(z, torch.zeros(())),
]


@pytest.mark.parametrize("number", range(len(ACTIVATIONS)))
def test_an_activation_in_any_way_of_writing(number):
    flow = flow_of(two(ACTIVATIONS[number]), torch.randn(4, 5))
    assert flow.activated("a") == "b"
    assert list(ways(flow, "b")) == ["a"]


NO_ACTIVATIONS = [
    lambda _, z: F.layer_norm(z, z.shape[1:]),
    lambda _, z: 2 * z,
    lambda _, z: z.relu() + torch.arange(6.0),
    lambda _, z: z.relu() @ torch.eye(6),
    lambda _, z: z.softmax(-1),
    lambda _, z: F.dropout(z.relu(), 0.5, training=True),
    lambda _, z: z.relu().flip(1),
    lambda _, z: torch.cat([z[:, :3], z[:, 3:].relu()], 1),
    lambda _, z: torch.from_numpy(z.numpy()).relu(),
    lambda _, z: z.relu() + torch.from_numpy(np.zeros((4, 6), np.float32)),
    lambda net, z: z.relu() * net.a(torch.ones(4, 5)),
    lambda net, z: z.relu() + F.linear(z, net.b.weight.T @ net.b.weight),
]


@pytest.mark.parametrize("number", range(len(NO_ACTIVATIONS)))
def test_what_is_more_than_an_activation(number):
    flow = flow_of(two(NO_ACTIVATIONS[number]), torch.randn(4, 5))
    assert flow
    assert flow.activated("a") is None
    assert flow.relu_chain("b") is None


def test_what_went_through_numpy_is_unknown():
    flow = flow_of(
        two(lambda _, z: torch.from_numpy(z.numpy()).relu()), torch.ones(4, 5)
    )
    assert ways(flow, "b") == {UNKNOWN: ("relu",)}
    noisy = two(lambda _, z: z + torch.from_numpy(np.zeros(6, np.float32)))
    flow = flow_of(noisy, torch.ones(4, 5))
    assert ways(flow, "b") == {"a": ("add",), UNKNOWN: ("add",)}
    assert not any(edge.alone for edge in flow.sources("b"))


def test_writing_in_place_into_a_view_changes_the_whole():
    def between(net: Any, z: Tensor) -> Tensor:
        out = torch.empty(4, 6)
        out[:, :3] = z[:, :3]
        out.view(-1)[12:].copy_(net.other(z)[:, 3:].flatten())
        return out

    net = Net(
        lambda net, x: net.b(between(net, net.a(x))),
        a=nn.Linear(5, 6),
        other=nn.Linear(6, 6),
        b=nn.Linear(6, 3),
    )
    flow = flow_of(net, torch.randn(4, 5))
    assert set(ways(flow, "b")) == {"a", "other"}
    assert ways(flow, "other") == {"a": ()}


def test_a_convolutional_network():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1),
        nn.Flatten(),
        nn.Linear(100, 5),
    )
    flow = flow_of(net, torch.randn(2, 3, 16, 16))
    assert ways(flow, "4") == {"0": ("batch_norm", "relu", "max_pool2d")}
    (edge,) = flow.sources("4")
    norm, relu, pool = edge.operations
    assert [x.kind for x in edge.operations] == [
        "normalisation",
        "activation",
        "pooling",
    ]
    owned = ("weight", "bias", "running_mean", "running_var")
    assert set(norm.parameters) == {f"1.{name}" for name in owned}
    assert relu.parameters == pool.parameters == ()
    # what a flattened map was is known
    (last,) = flow.sources("8")
    assert [(o.name, o.kind) for o in last.operations] == [("flatten", "reshape")]
    assert last.shapes == ((2, 4, 5, 5), (2, 100))
    assert flow.activated("0") is None
    assert flow.activated("4") == "6"
    assert flow.activated("6") is None  # its features are not those of the flattened
    assert flow.relu_chain("8") is None


def test_images_may_be_flattened_into_a_chain():
    net = nn.Sequential(nn.Flatten(), *mlp(12, 6, 3))
    flow = flow_of(net, torch.randn(4, 3, 2, 2))
    assert flow.relu_chain("3") == ("1", "3")
    # one vector per sample: not so for tokens
    assert flow_of(mlp(5, 6, 3), torch.randn(4, 7, 5)).relu_chain("2") is None
    folded = Net(lambda net, x: net.a(x.reshape(-1, 5)), a=nn.Linear(5, 3))
    assert flow_of(folded, torch.randn(4, 7, 5)).relu_chain("a") is None


def test_a_residual_stream():
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.embed(x)
        for up, down in ((net.up0, net.down0), (net.up1, net.down1)):
            x = x + down(F.gelu(up(F.layer_norm(x, (6,)))))
        return net.head(x)

    sizes = {"embed": (5, 6), "up0": (6, 9), "down0": (9, 6), "up1": (6, 9)}
    sizes |= {"down1": (9, 6), "head": (6, 2)}
    parts = {name: nn.Linear(*size) for name, size in sizes.items()}
    flow = flow_of(Net(forward, **parts), torch.randn(4, 5))
    assert ways(flow, "up0") == {"embed": ("layer_norm",)}
    assert ways(flow, "down0") == {"up0": ("gelu",)}
    assert ways(flow, "up1") == {
        "embed": ("add", "layer_norm"),
        "down0": ("add", "layer_norm"),
    }
    assert ways(flow, "head") == {
        "embed": ("add", "add"),
        "down0": ("add", "add"),
        "down1": ("add",),
    }
    assert not any(edge.alone for edge in flow.sources("head"))
    assert [flow.activated(n) for n in ("up0", "up1", "down0")] == [
        "down0",
        "down1",
        None,
    ]


def test_modules_that_are_called_often():
    flow = flow_of(Reused(), torch.randn(4, 5))
    found = [(e.source, e.call, len(e.operations)) for e in flow.sources("cell")]
    assert found == [(INPUT, 0, 1), ("cell", 1, 1), ("cell", 2, 1)]
    assert flow.called == {"cell": 3, "out": 1}
    # its outputs go to itself and to another: neither receives what it puts out
    assert flow.activated("cell") is None
    assert flow.relu_chain("out") is None
    twice = Net(
        lambda net, x, y: [net.b(net.a(z).relu()) for z in (x, y)],
        a=nn.Linear(5, 4),
        b=nn.Linear(4, 3),
    )
    flow = flow_of(twice, (torch.randn(4, 5), torch.randn(2, 5)))
    assert flow.activated("a") == "b"
    assert flow.relu_chain("b") is None


def test_two_readers_of_one_output():
    net = Net(
        lambda net, x: (net.raw(z := net.a(x)), net.b(z.relu()), net.c(z.relu())),
        **{name: nn.Linear(5, 5) for name in ("a", "raw", "b", "c")},
    )
    assert flow_of(net, torch.randn(4, 5)).activated("a") == "b"


def test_in_place_modules_and_functions_without_a_module():
    for inplace in (True, False):
        flow = flow_of(InPlace(inplace), torch.randn(3, 7))
        assert flow.relu_chain("second") == ("first", "second")
    flow = flow_of(Uncalled(), torch.randn(3, 4))
    assert "unseen" not in flow.arrivals
    flow = flow_of(TwoInputs(), (torch.randn(2, 4), torch.randn(2, 5)))
    assert [e.source for e in flow.edges()] == [INPUT, INPUT]


def test_a_layer_that_does_more_than_its_weight_is_in_no_chain():
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * super().forward(x)

    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), Scaled(4, 3))
    flow = flow_of(net, torch.randn(2, 5))
    assert flow.relu_chain("0") == ("0",)
    assert flow.relu_chain("2") is None
    assert flow.activated("0") == "2"  # what it receives is the activation all the same


def test_attention_and_recurrence_of_torch():
    net = Net(
        lambda net, x: net.b(net.attention(z := net.a(x), z, z)[0]),
        a=nn.Linear(8, 8),
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
        b=nn.Linear(8, 3),
    )
    flow = flow_of(net, torch.randn(2, 5, 8))
    for letter in "qkv":
        assert ways(flow, f"attention.{letter}_proj") == {"a": ()}
    assert ways(flow, "b") == {"attention.out_proj": ()}
    assert flow.activated("a") == "attention.q_proj"
    net = Net(
        lambda net, x: net.b(net.lstm(net.a(x))[0][:, -1]),
        a=nn.Linear(4, 4),
        lstm=nn.LSTM(4, 6, batch_first=True),
        b=nn.Linear(6, 3),
    )
    flow = flow_of(net, torch.randn(2, 5, 4))
    assert ways(flow, "lstm.weight_ih_l0.i") == {"a": ()}
    (edge,) = flow.sources("b")
    assert (edge.source, [o.name for o in edge.operations]) == (
        "a",
        ["lstm", "getitem"],
    )
    assert "lstm.weight_hh_l0" in edge.operations[0].parameters
    assert flow.relu_chain("b") is None


def test_gpt2_and_bert():
    from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

    tokens = torch.randint(0, 30, (2, 7))
    flow = flow_of(
        GPT2Model(
            GPT2Config(vocab_size=30, n_positions=8, n_embd=8, n_layer=2, n_head=2)
        ),
        tokens,
    )
    for i in range(2):
        assert flow.activated(f"h.{i}.mlp.c_fc") == f"h.{i}.mlp.c_proj"
        reached = ways(flow, f"h.{i}.attn.c_proj")
        assert set(reached) == {f"h.{i}.attn.c_attn.{x}" for x in "qkv"}
        assert all(
            "scaled_dot_product_attention" in names for names in reached.values()
        )
    writers = {"wte", "wpe", "h.0.attn.c_proj", "h.0.mlp.c_proj"}
    assert set(ways(flow, "h.1.attn.c_attn.q")) == writers
    assert set(ways(flow, "h.1.mlp.c_fc")) == writers | {"h.1.attn.c_proj"}
    config = BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=8,
    )
    flow = flow_of(BertModel(config), {"input_ids": tokens})
    layer = "encoder.layer.0"
    assert flow.activated(f"{layer}.intermediate.dense") == f"{layer}.output.dense"
    assert ways(flow, f"{layer}.output.dense") == {
        f"{layer}.intermediate.dense": ("gelu",)
    }
    assert flow.activated(f"{layer}.output.dense") is None


def test_modes_and_transforms_of_the_user():
    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return func(*args, **(kwargs or {}))

    def between(_: Any, z: Tensor) -> Tensor:
        with Watch():
            return z.relu()

    assert flow_of(two(between), torch.randn(4, 5)).activated("a") == "b"
    with torch.device("cpu"):
        assert flow_of(two(between), torch.randn(4, 5)).activated("a") == "b"
    vmapped = two(lambda _, z: torch.func.vmap(torch.relu)(z))
    flow = flow_of(vmapped, torch.randn(4, 5))
    assert flow.activated("a") is None
    assert set(ways(flow, "b")) == {UNKNOWN}

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: Any, x: Tensor) -> Tensor:
            return x.clamp(min=0)

        @staticmethod
        def backward(_ctx: Any, gradient: Tensor) -> Tensor:
            return gradient

    applied = two(lambda _, z: Double.apply(z))
    assert flow_of(applied, torch.randn(4, 5)).activated("a") == "b"


def test_what_the_trace_breaks_is_run_without_it():
    class Allergic(nn.Module):
        """Runs under no mode."""

        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            if torch.overrides._get_current_function_mode() is not None:
                raise RuntimeError("not under a mode")
            return self.a(x)

    flow = flow_of(Allergic(), torch.randn(2, 5))
    assert not flow
    assert flow.activated("a") is flow.relu_chain("a") is None
    assert flow.sources("a") == ()


def test_an_error_of_the_trace_reaches_nobody(monkeypatch):
    from svdhooks.flow import tracing

    monkeypatch.setattr(tracing, "MOST_STEPS", 2)
    assert not flow_of(mlp(5, 4, 3), torch.randn(2, 5))
    monkeypatch.setattr(tracing, "kind_of", lambda *_: 1 / 0)
    assert not flow_of(mlp(5, 4, 3), torch.randn(2, 5))


def test_a_flow_pickles_and_knows_nothing_else():
    flow = flow_of(mlp(5, 4, 3), torch.randn(2, 5))
    again = pickle.loads(pickle.dumps(flow))
    assert again == flow
    assert again.activated("0") == "2"
    assert not Flow()
    assert list(Flow().edges()) == []
    assert isinstance(next(flow.edges()), Edge)


def test_the_trace_keeps_no_tensor_alive():
    alive: list[int] = []

    def forward(net: Any, x: Tensor) -> Tensor:
        known: list[weakref.ref[Tensor]] = []
        for layer in net.children():
            x = layer(x).relu()
            known.append(weakref.ref(x))
            alive.append(sum(ref() is not None for ref in known))
        return x

    parts = {name: nn.Linear(5, 5) for name in "abcde"}
    flow = flow_of(Net(forward, **parts), torch.randn(4, 5))
    assert flow.relu_chain("e") == tuple("abcde")
    assert max(alive) == 1
