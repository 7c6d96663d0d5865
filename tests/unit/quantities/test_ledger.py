"""The ledger against closed forms, counts by hand, and covariances formed at once."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import svdhooks
from svdhooks.quantities.ledger import Ledger
from svdhooks.quantities.ledger_seen import LEDGER_MEASURES
from svdhooks.record import Record
from svdhooks.reports import RecordingWarning
from tests.models import Reused, mlp

RELU_REMOVES = 1 - 0.3408450569081046
"""Of a centred Gaussian: the variance of its ReLU is σ²(½ - 1/2π)."""


def ledger_of(
    model: nn.Module, probe: Any, quantity: Any = None, **options: Any
) -> dict[str, Record]:
    """What one record holds, layer by layer."""
    sink = svdhooks.MemorySink()
    quantities = [quantity or Ledger()]
    with svdhooks.watch(
        model, None, quantities=quantities, sinks=[sink], probe=probe, **options
    ):
        pass
    records = sink.of("ledger")
    assert {record.point for record in records} == {"ledger"}
    assert all(tuple(record.values) == LEDGER_MEASURES for record in records)
    return {record.layer: record for record in records}


def double_covariance(samples: Tensor) -> Tensor:
    return torch.cov(samples.double().T, correction=0)


def test_a_planted_kernel_and_a_known_covariance_give_exact_shares():
    """The weight keeps 3 of 8 directions; the input's variances there are known."""
    V = torch.linalg.qr(torch.randn(8, 8).double())[0]
    U = torch.linalg.qr(torch.randn(6, 6).double())[0]
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 8)).double()
    sigma = torch.tensor([2.0, 1.0, 0.5, 0.01]).double()
    with torch.no_grad():
        model[0].weight.copy_(U[:, :4] * sigma @ V[:, :4].T)
        model[1].weight.copy_(model[0].weight.T)
    variances = torch.tensor([5.0, 1, 2, 4, 3, 0, 1, 0]).double()
    # ± each direction: a covariance that is exactly V diag V'
    points = torch.cat([torch.eye(8), -torch.eye(8)]).double() * (8 * variances).sqrt()
    x = points.repeat(1, 1) @ V.T + 3.0
    first = ledger_of(model, x)["0"].measures
    assert first["input_null_dimension"] == 5  # 0.01 is 0.005 of the largest
    assert first["input_null_share"] == pytest.approx((4 + 3 + 0 + 1 + 0) / 16)
    assert first["count"] == 16
    loose = ledger_of(model, x, Ledger(null=0.001))["0"].measures
    assert loose["input_null_dimension"] == 4
    assert loose["input_null_share"] == pytest.approx(4 / 16)
    strict = ledger_of(model, x, Ledger(null=0.3))["0"].measures
    assert strict["input_null_share"] == pytest.approx((2 + 4 + 3 + 1) / 16)


def test_what_a_weight_receives_has_lost_what_the_weight_before_dropped():
    """The second of two layers gets what the first put out: nothing in its kernel."""
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 8))
    with torch.no_grad():
        model[0].weight[3:] = 0
        model[0].bias.normal_()
        model[1].weight[:, 3:] = 0
    found = ledger_of(model, torch.randn(300, 8))
    assert found["1"].measures["input_null_share"] == pytest.approx(0, abs=1e-9)
    assert found["1"].measures["input_null_dimension"] == 3
    # nothing lies between the two
    assert found["0"].measures["nonlinearity_removed_share"] == pytest.approx(
        0, abs=1e-9
    )


def test_relu_removes_two_thirds_of_a_centred_gaussian():
    model = mlp(12, 64, 3)
    nn.init.zeros_(model[0].bias)
    found = ledger_of(model, torch.randn(20000, 12))
    # units are correlated: about 12 × 20,000 independent numbers
    share = found["0"].measures["nonlinearity_removed_share"]
    assert share == pytest.approx(RELU_REMOVES, abs=4 / math.sqrt(12 * 20000))
    assert math.isnan(found["2"].measures["nonlinearity_removed_share"])
    assert found["0"].measures["negative_fraction"] == pytest.approx(0.5, abs=0.01)


def test_fractions_are_counted_by_hand():
    model = mlp(2, 4, 1)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 0], [0, 0], [1, 0], [0, 1]]))
        model[0].bias.copy_(torch.tensor([-1.0, 2, 0, 0]))
    x = torch.tensor([[1.0, -1.0], [-2.0, 3.0], [0.0, 4.0]])
    # outputs: -1 always, 2 always, (1, -2, 0), (-1, 3, 4)
    found = ledger_of(model, x)["0"].measures
    assert found["negative_fraction"] == 5 / 12
    assert found["dead_fraction"] == 1 / 4
    assert found["always_on_fraction"] == 1 / 4
    before = x.var(0, correction=0).sum()
    after = x.relu().var(0, correction=0).sum()
    assert found["nonlinearity_removed_share"] == pytest.approx(
        float(1 - after / before)
    )


@pytest.mark.parametrize("samples", [5, 40])
@pytest.mark.parametrize("relative", [True, False])
def test_information_is_that_of_the_channel_with_the_noise_beside_it(samples, relative):
    model, x = mlp(7, 11, 3), torch.randn(samples, 7)
    found = ledger_of(model, x, Ledger(noise=0.2, relative_noise=relative))
    for name, z in (("0", model[0](x)), ("2", model(x))):
        C, measures = double_covariance(z.detach()), found[name].measures
        d = len(C)
        sigma = 0.2 * math.sqrt(float(C.trace()) / d) if relative else 0.2
        assert measures["noise"] == pytest.approx(sigma, rel=1e-6)
        eye = torch.eye(d).double()
        expected = torch.logdet(eye + C / sigma**2) / 2
        assert measures["information"] == pytest.approx(float(expected), rel=1e-6)
        slope = torch.linalg.solve(C + sigma**2 * eye, C).trace()
        assert measures["information_slope"] == pytest.approx(float(slope), rel=1e-6)
        few = ("sample_limited",) if samples < 2 * d else ()
        assert found[name].marks == few


def test_relative_noise_makes_information_blind_to_scale():
    model, x = mlp(7, 6, 3), torch.randn(50, 7)
    before = {n: r.measures for n, r in ledger_of(model, x).items()}
    absolute = ledger_of(model, x, Ledger(relative_noise=False))["0"].measures
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter *= 10
    after = {n: r.measures for n, r in ledger_of(model, x).items()}
    for name in ("information", "information_slope", "input_null_share"):
        assert after["0"][name] == pytest.approx(before["0"][name], rel=1e-4)
    assert after["0"]["noise"] == pytest.approx(10 * before["0"]["noise"], rel=1e-5)
    louder = ledger_of(model, x, Ledger(relative_noise=False))["0"].measures
    assert louder["information"] > absolute["information"] + 1


def test_convolutions_are_judged_by_their_patches():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Flatten(),
        nn.Linear(36, 3),
    ).eval()
    x = torch.randn(6, 3, 14, 14)
    found = {name: r.measures for name, r in ledger_of(model, x).items()}
    rows = torch.nn.functional.unfold(x, 3, padding=1, stride=2)
    C = double_covariance(rows.movedim(1, -1).flatten(0, 1))
    Vh = torch.linalg.svd(model[0].weight.detach().flatten(1).double())[2]
    share = (Vh[8:] @ C @ Vh[8:].T).trace() / C.trace()
    assert found["0"]["input_null_share"] == pytest.approx(float(share), rel=1e-5)
    assert found["0"]["input_null_dimension"] == 27 - 8
    assert found["0"]["count"] == 6 * 7 * 7
    with torch.no_grad():
        z = model[0](x)
    channels = [y.movedim(1, -1).flatten(0, 2) for y in (z, z.relu())]
    before, after = (double_covariance(y).trace() for y in channels)
    removed = found["0"]["nonlinearity_removed_share"]
    assert removed == pytest.approx(float(1 - after / before), rel=1e-5)
    assert math.isnan(found["2"]["nonlinearity_removed_share"])  # a norm between
    assert math.isnan(found["5"]["input_null_share"])  # grouped
    assert found["5"]["information"] > 0
    assert 0 < found["7"]["input_null_share"] < 1


def test_what_is_left_out_is_said():
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=2), nn.ConvTranspose2d(4, 30, 3), nn.Flatten()
    )
    quantity = Ledger(max_features=20)
    layers = svdhooks.layers.find_layers(model).layers
    skipped = [quantity.skipped_points(layer) for layer in layers]
    assert "group of a convolution" in skipped[0]["input"]
    assert "conv_transpose2d" in skipped[1]["input"]
    assert "30 features exceed" in skipped[1]["output"]
    unseen = dataclasses.replace(layers[0], points={"input": 4})
    assert quantity.measured_points(unseen) == []
    found = ledger_of(model, torch.randn(2, 4, 5, 5), quantity)["1"]
    assert found.ok
    assert math.isnan(found.measures["information"])
    assert math.isnan(found.measures["noise"])
    assert found.measures["negative_fraction"] > 0
    assert quantity.measured_points(svdhooks.layers.tap.Tap("t", "0", model[0])) == []


def test_tokens_and_masks():
    model = mlp(4, 6, 3)

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.body(x)

    x, mask = torch.randn(3, 7, 4), torch.ones(3, 7, dtype=torch.long)
    mask[0, 4:] = mask[1, 1:] = 0
    options = svdhooks.ProbeOptions(mask="mask")
    given = {"x": x, "mask": mask}
    found = ledger_of(Tokens(), given, probe_options=options)["body.0"].measures
    plain = ledger_of(model, x[mask != 0])["0"].measures
    assert found == pytest.approx(plain, rel=1e-5)
    assert found["count"] == 12
    mean = ledger_of(
        Tokens(), given, probe_options=svdhooks.ProbeOptions(samples="mean")
    )
    assert math.isnan(mean["body.0"].measures["nonlinearity_removed_share"])
    assert mean["body.0"].measures["count"] == 3


def test_awkward_layers():
    found = ledger_of(Reused(), torch.randn(9, 5))
    assert found["cell"].measures["count"] == 27
    assert math.isnan(found["cell"].measures["nonlinearity_removed_share"])
    recurrent = ledger_of(nn.LSTM(4, 6), torch.randn(5, 3, 4))
    gate = recurrent["lstm.weight_ih_l0.i"].measures
    assert gate["input_null_share"] == pytest.approx(0)
    assert gate["count"] == 15
    assert math.isnan(gate["information"])
    attention = nn.MultiheadAttention(8, 2)
    y = torch.randn(5, 3, 8)
    heads = ledger_of(attention, (y, y, y))
    assert set(heads) == {
        f"multiheadattention.{x}_proj" for x in ("q", "k", "v", "out")
    }
    assert all(record.ok for record in heads.values())
    assert heads["multiheadattention.out_proj"].measures["information"] > 0


def test_a_constant_output_tells_nothing():
    model = mlp(4, 3, 2)
    nn.init.zeros_(model[0].weight)
    record = ledger_of(model, torch.randn(20, 4))["0"]
    measures = record.measures
    assert record.ok
    assert (measures["information"], measures["information_slope"]) == (0, 0)
    assert measures["noise"] == 0
    assert (measures["input_null_share"], measures["input_null_dimension"]) == (1, 4)
    assert math.isnan(measures["nonlinearity_removed_share"])


def test_failures_become_statuses():
    model = mlp(4, 3, 2)
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    with pytest.warns(RecordingWarning, match="non-finite"):
        found = ledger_of(model, torch.randn(20, 4))
    assert found["0"].ok
    assert not found["2"].ok
    assert np.isnan(list(found["2"].measures.values())).all()
    broken = mlp(4, 3, 2)
    with torch.no_grad():
        broken[0].weight[:] = torch.inf
        broken[0].bias[:] = 0
    with pytest.warns(RecordingWarning):
        assert not ledger_of(broken, torch.ones(3, 4))["0"].ok
    unused = mlp(4, 3, 2)
    unused.extra = nn.Linear(2, 2)
    unused.forward = lambda x: unused[2](unused[1](unused[0](x)))  # type: ignore[method-assign]
    with pytest.warns(RecordingWarning, match="calls no module"):
        found = ledger_of(unused, torch.randn(6, 4))
    assert found["extra"].status.startswith("not called")


def test_a_weight_that_cannot_be_read_leaves_the_rest(monkeypatch):
    from svdhooks.quantities import ledger_observer

    def refuse(*_: Any) -> Any:
        raise RuntimeError("quantised")

    monkeypatch.setattr(ledger_observer, "near_null_space", refuse)
    record = ledger_of(mlp(4, 3, 2), torch.randn(20, 4))["0"]
    assert record.ok
    assert record.marks == ("input_null_unknown",)
    assert math.isnan(record.measures["input_null_share"])
    assert record.measures["information"] > 0
    assert record.measures["nonlinearity_removed_share"] > 0


def test_in_training_all_but_the_nonlinearity_is_seen():
    model, sink = mlp(5, 7, 2), svdhooks.MemorySink()
    data = [torch.randn(8, 5) for _ in range(4)]
    with svdhooks.watch(
        model,
        None,
        every=4,
        quantities=[Ledger()],
        sinks=[sink],
        observe="training",
        probe_options=svdhooks.ProbeOptions(window=4),
    ) as recorder:
        for x in data:
            model(x)
            recorder.step()
    record = sink.of("ledger")[-2]
    assert (record.step, record.layer, record.ok) == (4, "0", True)
    measures = record.measures
    z = model[0](torch.cat(data)).detach()
    assert measures["count"] == 32
    assert measures["negative_fraction"] == pytest.approx(float((z < 0).float().mean()))
    sigma = measures["noise"]
    expected = torch.logdet(torch.eye(7) + double_covariance(z) / sigma**2) / 2
    assert measures["information"] == pytest.approx(float(expected), rel=1e-5)
    assert measures["input_null_share"] == pytest.approx(0)
    assert math.isnan(measures["nonlinearity_removed_share"])


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"noise": 0.0}, ValueError, "without noise"),
        ({"noise": math.inf}, ValueError, "positive standard deviation"),
        ({"noise": "loud"}, TypeError, "expected a number"),
        ({"null": 0}, ValueError, "between 0 and 1"),
        ({"null": 1.0}, ValueError, "between 0 and 1"),
        ({"null": True}, TypeError, "expected a number"),
        ({"max_features": 0}, ValueError, "at least 1"),
    ],
)
@pytest.mark.usefixtures("as_a_user_calls")
def test_bad_options_say_what_was_found(options, error, said):
    with pytest.raises(error, match=said):
        Ledger(**options)
