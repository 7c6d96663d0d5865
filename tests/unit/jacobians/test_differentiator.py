"""One model's Jacobians: what is kept, what is bounded, what is refused."""

import math

import pytest
import torch
from torch import Tensor, nn

from svdhooks.jacobians import Differentiator, JacobianOptions, measurement
from svdhooks.jacobians.front import local_rank
from svdhooks.jacobians.passes import PassFailedError, lacks_memory
from svdhooks.layers import find_layers
from svdhooks.linalg.jacobian import orthonormal_directions
from svdhooks.probe import ReferenceBatch
from tests.jacobians import assert_spectra, jacobians_by_hand, one_of, spectra_by_hand
from tests.models import TwoInputs, mlp


class Counted(nn.Module):
    """Counts its forwards, which a probe does not put back: it is a list."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.body = mlp(*widths)
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return self.body(x)


def measure(model: nn.Module, x: Tensor, **options: object):
    differentiator = Differentiator(model, None, JacobianOptions(**options))
    return differentiator.measure(find_layers(model).layers, ReferenceBatch.given(x))


def test_what_was_found_out_is_kept_until_the_layers_change():
    model, x = Counted(6, 8, 3), ReferenceBatch.given(torch.randn(4, 6))
    layers = find_layers(model).layers
    differentiator = Differentiator(model, None, JacobianOptions())
    counts = []
    for chosen in (layers, layers, layers[:1], layers[:1]):
        model.batches.clear()
        differentiator.measure(chosen, x)
        counts.append(len(model.batches))
    # one to measure, one to see whether the method is still right
    assert counts[1] == counts[3] == 2
    assert counts[0] > 5 < counts[2]


def test_samples_are_chunked_to_what_may_be_held():
    model, x = Counted(6, 8, 3), torch.randn(10, 6)
    whole = measure(model, x)
    one = 3 * 4 * 6 * (8 + 3)  # float32, six directions, all outputs, three times
    model.batches.clear()
    parts = measure(model, x, max_bytes=3 * one)
    assert model.batches[-4:] == [3, 3, 3, 1]
    for name, each in whole.items():
        torch.testing.assert_close(parts[name].spectra, each.spectra)


def test_a_layer_too_large_for_one_sample_says_so():
    found = measure(mlp(6, 500, 3), torch.randn(4, 6), max_bytes=2000)
    assert "max_bytes=2000" in found["0"].status
    assert found["2"].ok


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["python", "device", "cpu"],
)
def test_out_of_memory_halves_the_chunk_and_then_is_a_status(error, monkeypatch):
    model, x = mlp(6, 8, 3), torch.randn(10, 6)
    whole, original = measure(model, x), measurement.of_products
    sizes: list[int] = []

    def short(most: int):
        def of_products(function, at, *rest):
            sizes.append(len(at))
            if len(at) > most:
                raise error
            return original(function, at, *rest)

        return of_products

    monkeypatch.setattr(measurement, "of_products", short(3))
    found = measure(model, x)
    assert sizes == [10, 5, 2, 2, 2, 2, 2]
    for name, each in whole.items():
        torch.testing.assert_close(found[name].spectra, each.spectra)
    monkeypatch.setattr(measurement, "of_products", short(0))
    assert {each.status for each in measure(model, x).values()} == {"out of memory"}


def test_other_errors_are_no_lack_of_memory():
    assert lacks_memory(PassFailedError("out of memory (rank 1)", "memory"))
    assert not lacks_memory(RuntimeError("shapes do not match"))
    assert not lacks_memory(ValueError("out of memory"))


def test_when_time_is_up_the_rest_of_the_samples_is_left_out():
    model, x = mlp(6, 8, 3), torch.randn(10, 6)
    options = JacobianOptions(max_bytes=3 * 3 * 4 * 6 * 11)
    differentiator = Differentiator(model, None, options)
    found = differentiator.measure(
        find_layers(model).layers, ReferenceBatch.given(x), exhausted=lambda: True
    )
    assert {len(each.spectra) for each in found.values()} == {3}
    assert {len(each.frobenius) for each in found.values()} == {3}


def test_of_a_larger_batch_some_samples_are_taken():
    model, x = mlp(6, 8, 3).double(), torch.randn(9, 6, dtype=torch.float64)
    found = measure(model, x, max_samples=3)
    expected = spectra_by_hand(model, ["0", "2"], one_of(x[[0, 3, 6]]), 3)
    for name, sigma in expected.items():
        assert_spectra(found[name].spectra, sigma, 1e-9)


def test_a_sketch_is_a_lower_bound_and_says_so():
    model, x = mlp(40, 60, 50).double(), torch.randn(3, 40, dtype=torch.float64)
    expected = jacobians_by_hand(model, ["0", "2"], one_of(x), 3)
    found = measure(model, x, directions=10, max_directions=10)
    again = measure(model, x, directions=10, max_directions=10)
    for name, matrices in expected.items():
        each = found[name]
        assert each.ok
        assert not each.complete
        assert each.directions == 10
        assert torch.equal(each.spectra, again[name].spectra)
        sigma = torch.linalg.svdvals(torch.stack([torch.tensor(J) for J in matrices]))
        assert (each.spectra <= sigma[:, :10] * (1 + 1e-12)).all()
        norms = sigma.square().sum(1).sqrt()
        assert (each.frobenius / norms - 1).abs().max() < 0.5


def test_the_norm_of_a_sketch_is_right_on_average():
    """Over draws of the directions: E‖JV‖² = (k/n)‖J‖²."""
    J = torch.randn(7, 20, dtype=torch.float64)
    squares = torch.stack([
        (J @ orthonormal_directions(5, (20,), dtype=J.dtype, seed=s).T).square().sum()
        for s in range(400)
    ])
    error = squares.std() / 20  # of the mean of 400
    assert abs(squares.mean() * 4 - J.square().sum()) < 4 * 4 * error


def test_refined_values_are_those_of_the_jacobian_up_to_the_stated_error():
    model, x = mlp(40, 60, 50).double(), torch.randn(3, 40, dtype=torch.float64)
    expected = spectra_by_hand(model, ["2"], one_of(x), 3)["2"]
    found = measure(model, x, directions=10, max_directions=10, refine=True)["2"]
    assert found.error is not None
    leading = torch.from_numpy(expected[:, :10])
    assert (found.spectra <= leading * (1 + 1e-9)).all()
    assert (leading <= found.spectra + found.error[:, None]).all()


@pytest.mark.parametrize("positions", ["mean", 0, -1])
def test_positions_of_a_sequence(positions):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    found = measure(model, x, positions=positions)["2"]
    for sample in range(2):
        point = x[sample].clone().requires_grad_()
        z = model(point)
        vector = z.mean(0) if positions == "mean" else z[positions]
        rows = [torch.autograd.grad(v, point, retain_graph=True)[0] for v in vector]
        sigma = torch.linalg.svdvals(torch.stack(rows).flatten(1))
        torch.testing.assert_close(found.spectra[sample], sigma)


def test_the_first_floating_point_tensor_that_matters_is_the_input():
    model = TwoInputs().double()
    a, b = torch.randn(3, 4).double(), torch.randn(3, 5).double()
    found = local_rank(model, {"a": a, "b": b})
    assert found["left"].status == "ok"
    assert "no gradient" in found["right"].status or "depend" in found["right"].status
    assert found["left"].inputs == 4


def test_the_output_of_a_module_can_be_the_input():
    model, x = mlp(6, 8, 7, 3).double(), torch.randn(4, 6, dtype=torch.float64)
    found = local_rank(model, x, point="1")
    expected = spectra_by_hand(model[2:], ["2", "4"], one_of(model[:2](x).detach()), 4)
    for name, sigma in expected.items():
        assert_spectra(found[name].spectra, sigma, 1e-9)
    assert "input point" in found["0"].status or "depend" in found["0"].status


def test_a_model_that_is_called_otherwise():
    model, x = mlp(6, 8, 3), torch.randn(4, 6)
    plain = local_rank(model, x)
    batch = {"x": x.double(), "y": torch.zeros(4)}
    found = local_rank(
        model, batch, forward=lambda m, b: m(b["x"]).sum() + b["y"].sum()
    )
    for name, each in plain.items():
        assert torch.equal(each.spectra, found[name].spectra)


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"eps": -1.0}, ValueError, "not negative"),
        ({"eps": math.nan}, ValueError, "finite"),
        ({"eps": "small"}, TypeError, "expected a number"),
        ({"layers": "nothing.*"}, ValueError, "nothing"),
        ({"taps": {"a": "9"}}, ValueError, "no such module"),
        ({"point": "body.7"}, ValueError, "did you mean body"),
        ({"directions": 0}, ValueError, "at least 1"),
        ({"max_bytes": 1.5}, TypeError, "whole number"),
        ({"positions": "last"}, ValueError, "'mean'"),
        ({"batch_axis": 2}, ValueError, "batch_axis=2"),
    ],
)
def test_a_wrong_argument_is_an_error_at_once(options, error, words):
    with pytest.raises(error, match=words):
        local_rank(Counted(6, 8, 3), torch.randn(4, 6), **options)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (torch.randn(4, 5), "does not accept"),
        ((), "without any tensor"),
    ],
)
def test_a_wrong_batch_is_an_error_that_says_what_to_do(batch, words):
    with pytest.raises((ValueError, TypeError), match=words):
        local_rank(mlp(6, 8, 3), batch)


def test_weights_that_are_not_finite_are_a_status_and_nothing_is_kept_of_it():
    model, x = mlp(6, 8, 3), ReferenceBatch.given(torch.randn(4, 6))
    layers = find_layers(model).layers
    differentiator = Differentiator(model, None, JacobianOptions())
    good = model[2].weight.detach().clone()
    with torch.no_grad():
        model[2].weight[0, 0] = math.nan
    found = differentiator.measure(layers, x)
    assert found["0"].ok
    assert "not finite" in found["2"].status
    with torch.no_grad():
        model[2].weight.copy_(good)
    assert differentiator.measure(layers, x)["2"].ok
    with torch.no_grad():
        model[2].weight[0, 0] = math.nan
    assert "not finite" in differentiator.measure(layers, x)["2"].status


def test_a_local_rank_reads_well():
    found = local_rank(mlp(6, 8, 3), torch.randn(4, 6))
    text = str(found)
    assert "LocalRank(6 ± 0 (6 to 6) of 6, σ > 0.01, 4 samples, forward)" in text
    relative = local_rank(mlp(6, 8, 3), torch.randn(4, 6), 0.1, relative=True)["2"]
    assert "0.1·σ₁" in str(relative)
    assert relative.per_sample.shape == (4,)
    assert relative.mean == relative.per_sample.double().mean()
