"""Local rank of whole models: the spectra are those of reverse mode, row by row."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from svdhooks.jacobians.front import local_rank
from tests import architectures
from tests.jacobians import assert_spectra, one_of, one_of_tokens, spectra_by_hand
from tests.models import Checkpointed, InPlace, Reused, Tied, mlp

EXACT = 1e-9
"""Of float64, relative to the largest singular value."""

SINGLE = 2e-5
"""Of float32."""


def cnn(channels_last: bool = False) -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, stride=2, groups=2),
        nn.SiLU(inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(36, 3),
    )
    return model.to(memory_format=torch.channels_last) if channels_last else model


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class Windows(nn.Module):
    """Attends within windows that lie side by side on the batch's axis, as swin does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.inner = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        n, side, _, _ = x.shape
        z = torch.roll(self.stem(x), (1, 1), (1, 2))
        windows = z.reshape(n, side // 2, 2, side // 2, 2, 4).transpose(2, 3)
        windows = self.inner(windows.reshape(-1, 4, 4))
        windows = self.attention(windows, windows, windows, need_weights=False)[0]
        return self.head(windows.reshape(n, -1, 4).mean(1))


class SequenceFirst(nn.Module):
    """Positions come first, samples second."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 6)
        self.rnn = nn.LSTM(6, 5)
        self.attention = nn.MultiheadAttention(5, 1)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        z = self.rnn(torch.tanh(self.stem(x)))[0]
        return self.head(self.attention(z, z, z, need_weights=False)[0])


CASES: dict[str, tuple[Any, tuple[int, ...], int]] = {
    # model, shape of the batch, axis of the samples
    "mlp": (lambda: mlp(6, 9, 8, 3), (5, 6), 0),
    "mlp, narrow at first": (lambda: mlp(12, 5, 8, 3), (5, 12), 0),
    "mlp, more inputs than rows": (lambda: mlp(40, 5, 4, 3), (5, 40), 0),
    "cnn": (cnn, (3, 2, 7, 7), 0),
    "cnn, channels last": (lambda: cnn(channels_last=True), (3, 2, 7, 7), 0),
    "transformer": (encoder, (3, 4, 8), 0),
    "reused, its last call": (Reused, (4, 5), 0),
    "in place": (lambda: InPlace(inplace=True), (4, 7), 0),
    "checkpointed": (lambda: Checkpointed(reentrant=False), (4, 6), 0),
    "checkpointed, reentrant": (lambda: Checkpointed(reentrant=True), (4, 6), 0),
    "windows": (Windows, (3, 4, 4, 3), 0),
    "sequence first": (SequenceFirst, (4, 3, 3), 1),
    "one sample": (lambda: mlp(6, 9, 3), (1, 6), 0),
}


def linear_modules(model: nn.Module) -> list[str]:
    kinds = (nn.Linear, nn.Conv2d, Conv1D)
    fused = (nn.modules.linear.NonDynamicallyQuantizableLinear,)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, kinds) and not isinstance(module, fused)
    ]


@pytest.mark.parametrize("case", CASES)
def test_spectra_are_those_of_reverse_mode(case):
    """Hazard 18: wherever a layer has its samples."""
    build, shape, axis = CASES[case]
    model, x = build().double(), torch.randn(shape, dtype=torch.float64)
    names = linear_modules(model)
    twin = copy.deepcopy(model)
    twin.reentrant = False  # what reverse mode by rows cannot pass, but gives the same
    expected = spectra_by_hand(twin, names, one_of(x, axis), shape[axis])
    found = local_rank(model, x)
    for name in names:
        assert found[name].status == "ok", name
        assert not found[name].lower_bound
        assert found[name].samples == shape[axis]
        assert_spectra(found[name].spectra, expected[name], EXACT)
        ranks = (torch.from_numpy(expected[name]) > 0.01).sum(1)
        assert torch.equal(found[name].per_sample, ranks)


@pytest.mark.parametrize("case", ["mlp, narrow at first", "cnn", "transformer"])
def test_in_single_precision_they_are_so_up_to_its_rounding(case):
    build, shape, axis = CASES[case]
    model, x = build(), torch.randn(shape)
    names = linear_modules(model)
    expected = spectra_by_hand(model, names, one_of(x, axis), shape[axis])
    found = local_rank(model, x)
    for name in names:
        assert_spectra(found[name].spectra, expected[name], SINGLE)


def test_taking_the_first_axis_for_the_samples_would_be_wrong():
    """The companion of hazard 18: rows of a window or a position are no sample's."""
    for build, shape, layer in (
        (Windows, (3, 4, 4, 3), "inner"),
        (SequenceFirst, (4, 3, 3), "stem"),
    ):
        model, x = build().double(), torch.randn(shape, dtype=torch.float64)
        axis = 1 if build is SequenceFirst else 0
        seen: list[Tensor] = []
        model.get_submodule(layer).register_forward_hook(
            lambda _m, _a, output, seen=seen: seen.append(output)
        )
        point = x.clone().requires_grad_()
        model.eval()(point)
        naive = seen[0][0].flatten()  # what is called the first sample
        rows = [torch.autograd.grad(z, point, retain_graph=True)[0] for z in naive]
        J = torch.stack([row.select(axis, 0).flatten() for row in rows])
        right = spectra_by_hand(model, [layer], one_of(x, axis), 1)[layer][0]
        wrong = torch.linalg.svdvals(J).numpy()
        r = min(len(right), len(wrong))
        assert abs(wrong[:r] - right[:r]).max() > 0.01 * right.max()


def test_tokens_are_differentiated_at_the_first_embedding():
    tokens = torch.randint(0, 13, (3, 4))

    class Model(Tied):
        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(torch.tanh(self.body(self.embedding(tokens))))

    model = Model().double()
    names = ["body", "head"]
    one = one_of_tokens("embedding", tokens=tokens)
    expected = spectra_by_hand(model, names, one, 3)
    found = local_rank(model, {"tokens": tokens})
    assert "input point" in found["embedding"].status
    assert str(found["embedding"]) == "LocalRank(its output is the input point)"
    for name in names:
        assert_spectra(found[name].spectra, expected[name], EXACT)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("double", [True, False])
def test_a_recurrent_network(kind, double):
    """Hazard 15: in float32 its kernel has no forward mode."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(3, 5, num_layers=2, dropout=0.3, batch_first=True)
            self.head = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])

    model, x = Model(), torch.randn(3, 4, 3)
    if double:
        model, x = model.double(), x.double()
    expected = spectra_by_hand(model, ["rnn", "head"], one_of(x), 3)
    found = local_rank(model, x, taps={"hidden": "rnn"})
    error = EXACT if double else SINGLE
    assert_spectra(found["hidden"].spectra, expected["rnn"], error)
    assert_spectra(found["head"].spectra, expected["head"], error)
    gates = [each for name, each in found.items() if name.startswith("rnn.weight")]
    assert all("does not show its output" in gate.status for gate in gates)
    assert gates


def hugging(
    name: str, implementation: str | None
) -> tuple[nn.Module, dict[str, Tensor]]:
    training = architectures.build(name)
    if implementation is not None:
        training.model.set_experts_implementation(implementation)
    return training.model, {"input_ids": training.batches[0]["input_ids"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "implementation", "method"),
    [
        ("gpt2", None, "forward"),
        ("bert_padded", None, "forward"),
        ("mixtral", None, "double_backward"),
        ("mixtral", "eager", "forward"),
    ],
)
def test_models_of_transformers(name, implementation, method):
    """Hazard 15: grouped products of experts have no forward mode."""
    model, batch = hugging(name, implementation)
    found = local_rank(model, batch)
    embedding = next(n for n, m in model.named_modules() if isinstance(m, nn.Embedding))
    names = [n for n in linear_modules(model) if n in found]
    names = list(dict.fromkeys([names[0], names[3], *names[-2:]]))
    one = one_of_tokens(embedding, **batch)
    # grouped products refuse float64
    double = name != "mixtral"
    expected = spectra_by_hand(model, names, one, 3, double=double)
    for layer in names:
        assert found[layer].method == method
        assert_spectra(found[layer].spectra, expected[layer], 5e-5)


def test_a_compiled_model_is_measured_eagerly():
    model = mlp(6, 9, 3)
    x = torch.randn(4, 6)
    compiled = torch.compile(copy.deepcopy(model), backend="eager")
    compiled(x)
    ours, plain = local_rank(compiled, x), local_rank(model, x)
    assert list(ours) == list(plain)
    for name in plain:
        assert torch.equal(ours[name].spectra, plain[name].spectra)


def test_bfloat16_is_measured_in_bfloat16():
    model, x = mlp(12, 16, 16, 4), torch.randn(4, 12)
    expected = spectra_by_hand(model.bfloat16(), ["0", "2", "4"], one_of(x), 4)
    found = local_rank(model, x)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    for name in ("0", "2", "4"):
        assert found[name].method.endswith("forward")
        assert_spectra(found[name].spectra, expected[name], 2e-2)
