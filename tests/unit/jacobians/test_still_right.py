"""What was true when a model was first looked at, and of the samples looked at then."""

import pytest
import torch
from torch import Tensor, nn

from svdhooks.jacobians import Differentiator, JacobianOptions
from svdhooks.jacobians.front import local_rank
from svdhooks.layers import find_layers
from svdhooks.probe import ReferenceBatch
from tests.integration.test_local_rank_hazards import through_opaque_sine
from tests.jacobians import assert_spectra, one_of, spectra_by_hand

EXACT = 1e-9
D = 6


class Gated(nn.Module):
    """A branch that a gate of zero keeps closed, as where training begins."""

    def __init__(self, branch: str, inputs: int = D, width: int = D) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.last = nn.Linear(width, 9)
        self.gate = nn.Parameter(torch.zeros(()))
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        beside = {
            "lost by forward mode": lambda: through_opaque_sine(z),
            "around the first layer": lambda: x[:, : z.shape[1]],
            "of the whole batch": lambda: z.mean(0).expand_as(z),
        }[self.branch]
        return self.last(torch.tanh(z) + self.gate * beside())


def opened(model: Gated) -> Gated:
    with torch.no_grad():
        model.gate.fill_(0.7)
    return model


@pytest.mark.parametrize(
    ("branch", "inputs", "width", "methods"),
    [
        ("lost by forward mode", D, D, ["forward", "double_backward"]),
        ("around the first layer", 20, 12, ["first_layer forward", "forward"]),
    ],
)
def test_a_gate_that_opens_while_the_model_learns_is_noticed(
    branch, inputs, width, methods
):
    model = Gated(branch, inputs, width).double()
    x = torch.randn(4, inputs, dtype=torch.float64)
    differentiator = Differentiator(model, None, JacobianOptions())
    layers, batch = find_layers(model).layers, ReferenceBatch.given(x)
    for state, method in zip((model, opened), methods, strict=True):
        if state is opened:
            opened(model)
        found = differentiator.measure(layers, batch)
        assert found["last"].complete
        assert found["last"].method == method
        expected = spectra_by_hand(model, ["first", "last"], one_of(x), 4)
        for name, sigma in expected.items():
            assert_spectra(found[name].spectra, sigma, EXACT)


def test_samples_that_come_to_depend_on_each_other_are_noticed():
    model, x = Gated("of the whole batch").double(), torch.randn(4, D).double()
    assert local_rank(model, x)["last"].status == "ok"
    found = local_rank(opened(model), x)
    assert found["first"].status == "ok"
    assert "mixes the samples" in found["last"].status


def test_a_layer_that_comes_to_depend_on_the_input_is_noticed():
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(D, D)
            self.gate = nn.Parameter(torch.zeros(()))
            self.pooled = nn.Linear(D, 3)

        def forward(self, x: Tensor) -> Tensor:
            z = self.first(x)
            # three rows for the whole batch of four: not to be divided by samples
            return z.sum() + self.pooled(self.gate * z[:3] + 1).sum()

    model, x = Late().double(), torch.randn(4, D).double()
    assert "does not depend" in local_rank(model, x)["pooled"].status
    with torch.no_grad():
        model.gate.fill_(1.0)
    assert "does not depend" not in local_rank(model, x)["pooled"].status


def test_a_first_layer_that_is_not_the_same_for_all_samples_is_no_basis():
    """Some samples are in one linear region of what precedes it, others in another."""

    class Clamped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(40, 6)
            self.last = nn.Linear(6, 30)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.first(torch.relu(x))))

    model, x = Clamped().double(), torch.randn(4, 40, dtype=torch.float64)
    x[[0, 2]] = x[[0, 2]].abs()  # those with which methods are checked
    expected = spectra_by_hand(model, ["first", "last"], one_of(x), 4)
    found = local_rank(model, x)
    for name, sigma in expected.items():
        assert found[name].status == "ok"
        assert_spectra(found[name].spectra, sigma, EXACT)


class Noisy(nn.Module):
    """Draws random numbers in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(D, D)
        self.last = nn.Linear(D, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.first(x))
        return self.last(nn.functional.dropout(z, 0.5, training=True))


def test_random_numbers_are_the_same_in_all_directions():
    model, x = Noisy().double(), torch.randn(5, D, dtype=torch.float64)
    found = local_rank(model, x)["last"]
    assert found.method == "forward"
    torch.manual_seed(0)
    point = x.clone().requires_grad_()
    z = model(point)
    rows = [
        torch.stack([
            torch.autograd.grad(entry, point, retain_graph=True)[0][i] for entry in z[i]
        ])
        for i in range(5)
    ]
    torch.testing.assert_close(found.spectra, torch.linalg.svdvals(torch.stack(rows)))


class Positions(nn.Module):
    """Embeds numbers of positions, which all samples share, before the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Embedding(6, D)
        self.tokens = nn.Embedding(9, D)
        self.kinds = nn.Embedding(2, D)
        self.body = nn.Linear(D, D)
        self.head = nn.Linear(D, 2)

    def forward(
        self, ids: Tensor, kinds: Tensor, places: Tensor | None = None
    ) -> Tensor:
        if places is None:
            places = torch.arange(ids.shape[1])
        z = self.place(places) + self.tokens(ids) + self.kinds(kinds)
        return self.head(torch.tanh(self.body(z)).mean(1))


@pytest.mark.parametrize(
    ("n", "length", "places"),
    [(3, 4, None), (1, 4, None), (4, 4, None), (3, 4, "shared"), (3, 4, "one row")],
)
def test_positions_that_samples_share_are_no_input(n, length, places):
    model = Positions().double()
    ids, kinds = torch.randint(0, 9, (n, length)), torch.randint(0, 2, (n, length))
    batch = {"ids": ids, "kinds": kinds}
    if places is not None:
        shape = (length,) if places == "shared" else (1, length)
        batch["places"] = torch.arange(length).reshape(shape)
    found = local_rank(model, batch)
    assert "input point" in found["tokens"].status
    assert found["head"].samples == n
    assert found["head"].inputs == length * D
    again = local_rank(model, batch, point="tokens")
    assert torch.equal(found["head"].spectra, again["head"].spectra)


def test_a_sample_may_be_a_single_number():
    class Curve(nn.Module):
        def __init__(self, inputs: int) -> None:
            super().__init__()
            self.first = nn.Linear(inputs, 5)
            self.last = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            z = self.first(x[:, None] if x.ndim == 1 else x)
            return self.last(torch.tanh(z))

    x = torch.randn(4, dtype=torch.float64)
    model = Curve(1).double()
    expected = spectra_by_hand(model, ["first", "last"], one_of(x), 4)
    found = local_rank(model, x)
    for name, sigma in expected.items():
        assert found[name].status == "ok"
        assert_spectra(found[name].spectra, sigma, EXACT)


def test_a_model_that_refuses_a_single_sample_has_a_reason_for_what_needs_it():
    model = nn.Sequential(
        nn.Linear(D, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3)
    )
    found = local_rank(model, torch.randn(4, D))
    assert found["0"].status == "ok"
    assert "a forward of one fails" in found["2"].status


def test_a_layer_that_is_called_for_one_sample_after_the_other():
    class Looped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(D, 4)
            self.last = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.last(torch.tanh(self.first(v))) for v in x])

    model, x = Looped().double(), torch.randn(4, D, dtype=torch.float64)
    found = local_rank(model, x)
    expected = spectra_by_hand(model, ["first", "last"], one_of(x), 4)
    for name, sigma in expected.items():
        assert found[name].status == "ok"
        assert_spectra(found[name].spectra, sigma, EXACT)


def test_a_layer_behind_one_of_16_bits_is_not_taken_for_wrong():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(D, 16).bfloat16()
            self.last = nn.Linear(16, 9)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.first(x.bfloat16())).float())

    model, x = Mixed(), torch.randn(4, D)
    found = local_rank(model, x)
    expected = spectra_by_hand(model, ["last"], one_of(x), 4, double=False)
    assert found["last"].method == "forward"
    assert_spectra(found["last"].spectra, expected["last"], 2e-2)
