"""What is exact beside a sketch, and what a sketch says of itself."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from svdhooks.jacobians import measurement
from svdhooks.jacobians.front import local_rank
from tests.jacobians import assert_spectra, one_of, spectra_by_hand
from tests.models import mlp

EXACT = 1e-9
SKETCH = {"directions": 10, "max_directions": 20}


def case() -> tuple[nn.Module, Tensor, dict[str, np.ndarray]]:
    model, x = mlp(40, 60, 50, 4).double(), torch.randn(3, 40, dtype=torch.float64)
    return model, x, spectra_by_hand(model, ["0", "2", "4"], one_of(x), 3)


def test_a_small_layer_beside_a_sketch_is_exact_by_its_rows():
    model, x, expected = case()
    found = local_rank(model, x, **SKETCH)
    assert [found[name].complete for name in "024"] == [False, False, True]
    assert [found[name].lower_bound for name in "024"] == [True, True, False]
    assert found["4"].method == "reverse"
    assert found["4"].directions == 4
    assert_spectra(found["4"].spectra, expected["4"], EXACT)


def test_of_one_position_all_layers_may_be_exact():
    model = nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 12)).double()
    x = torch.randn(2, 10, 3, dtype=torch.float64)
    options = {"directions": 12, "max_directions": 21}
    assert not any(r.complete for r in local_rank(model, x, **options).values())
    found = local_rank(model, x, positions=-1, **options)
    for name, r in found.items():
        assert r.complete
        last = spectra_by_hand(model, [name], one_of(x[:, -1]), 2)[name]
        # by the other positions it is not moved
        assert_spectra(r.spectra, last, EXACT)


@pytest.mark.parametrize("reason", ["memory", "an error"])
def test_a_layer_whose_rows_fail_is_sketched(reason, monkeypatch):
    model, x, expected = case()

    def failing(*_args: object) -> None:
        raise MemoryError if reason == "memory" else RuntimeError("no such derivative")

    monkeypatch.setattr(measurement, "of_rows", failing)
    found = local_rank(model, x, **SKETCH)["4"]
    assert found.status == "ok"
    assert found.method == "forward"
    assert found.directions == 10
    assert (found.spectra.numpy() <= expected["4"] * (1 + 1e-12)).all()


def test_rows_that_do_not_fit_are_sketched():
    model, x, _ = case()
    rows, products = 8 * 4 * 40, 8 * 4 * 10
    found = local_rank(model, x, max_bytes=rows - 1, **SKETCH)["4"]
    assert products < rows
    assert found.status == "ok"
    assert not found.complete
    assert local_rank(model, x, max_bytes=rows, **SKETCH)["4"].complete


def test_the_relative_rank_of_a_sketch_is_no_lower_bound_and_is_not_called_one():
    """σ₁ of a sketch is too small, so the threshold is."""
    torch.manual_seed(0)
    size, k = 60, 20
    # one direction towers above the others, which are just below the threshold
    sigma = torch.full((size,), 0.08, dtype=torch.float64)
    sigma[0] = 1.0
    U, V = (
        torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q for _ in "ab"
    )
    model = nn.Sequential(nn.Linear(size, size, bias=False)).double()
    with torch.no_grad():
        model[0].weight.copy_(U @ torch.diag(sigma) @ V.T)
    x = torch.randn(2, size, dtype=torch.float64)
    options = {"directions": k, "max_directions": k}
    exact = local_rank(model, x, 0.1, relative=True)["0"]
    sketch = local_rank(model, x, 0.1, relative=True, **options)["0"]
    assert exact.max == 1
    assert sketch.min > 1
    assert not sketch.complete
    assert not sketch.lower_bound
    assert str(sketch).startswith("LocalRank(about ")
    absolute = local_rank(model, x, 0.1, **options)["0"]
    assert absolute.lower_bound
    assert absolute.max <= 1
    assert str(absolute).startswith("LocalRank(at least ")


def test_all_singular_values_of_a_sketch_are_lower_bounds_by_any_method():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return 2 * gradient

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(40, 50), nn.Linear(50, 45)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(Once.apply(torch.tanh(self.first(x))))

    model, x = Model().double(), torch.randn(3, 40, dtype=torch.float64)
    expected = spectra_by_hand(model, ["first", "last"], one_of(x), 3)
    found = local_rank(model, x, directions=10, max_directions=10)
    assert found["last"].method == "reverse"
    assert found["first"].method != "reverse"
    for name, sigma in expected.items():
        ours = found[name].spectra.numpy()
        assert found[name].lower_bound
        assert (ours <= sigma[:, : ours.shape[1]] * (1 + 1e-12)).all()
        assert (ours[:, 0] < 0.99 * sigma[:, 0]).all()
