"""The spectral graph of a training run, live and from the log alone."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import svdhooks
from svdhooks import analysis
from svdhooks.reports import RecordingWarning


def _conv_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 12),
        nn.ReLU(),
        nn.Linear(12, 5),
    )


IMAGES = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(64) % 5
QUANTITIES = (
    svdhooks.WeightVectors(k=None, schedule=svdhooks.every(2)),
    svdhooks.PointMoments(schedule=svdhooks.every(2)),
    svdhooks.SpectralEdges(k=None, schedule=svdhooks.every(2)),
)
PAIRS = ["0->4", "4->7", "7->9"]


def _train(model, recorder, steps=4):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(IMAGES), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recorder.step()


def _adjacency(first, second):
    """As the paper writes it: filter by filter."""
    first, second = first.detach().double(), second.detach().double()
    U = torch.linalg.svd(first.flatten(1), full_matrices=False).U
    V = torch.linalg.svd(second.flatten(1), full_matrices=False).Vh
    V = V.reshape(len(V), len(first), -1)
    return torch.einsum("km,nkz->nmz", U, V).square().sum(-1).numpy()


@pytest.mark.parametrize("probe", [IMAGES, None], ids=["given", "captured"])
def test_pairs_are_traced_recorded_and_read_back(tmp_path, probe):
    model = _conv_net()
    with svdhooks.watch(
        model, tmp_path, every=2, quantities=QUANTITIES, probe=probe, max_overhead=None
    ) as recorder:
        _train(model, recorder)
    log = svdhooks.RunLog(tmp_path)
    assert (log.layers, log.edges) == (("0", "4", "7", "9"), tuple(PAIRS))
    assert [pair["name"] for pair in log.pairs] == PAIRS
    assert [pair["kind"] for pair in log.pairs] == ["conv-conv", "conv-fc", "fc-fc"]
    steps, top = log.series("4->7", "edges_top")
    assert steps.tolist() == ([0, 2, 4] if probe is not None else [2, 4])
    live = _adjacency(model[4].weight, model[7].weight)
    assert top[-1] == pytest.approx(live.max(), rel=1e-5)
    _, rows = log.series("4->7", "edges_rows")
    assert rows[-1] == live.shape[0]


def test_the_log_alone_gives_graph_and_descrambled_weights_of_the_model(tmp_path):
    model = _conv_net()
    with svdhooks.watch(
        model, tmp_path, every=2, quantities=QUANTITIES, probe=IMAGES, max_overhead=None
    ) as recorder:
        _train(model, recorder)
    weights = {n: m.weight.detach() for n, m in model.named_children() if n in "0479"}
    model.eval()
    with torch.no_grad():
        hidden = model[:9](IMAGES).double()
        bias = model[9].bias.double()
        outputs = model[9](hidden.float()).double() - bias
    del model
    graph = analysis.spectral_graph(svdhooks.RunLog(tmp_path))
    for pair in graph.pairs:
        expected = _adjacency(weights[pair.source], weights[pair.target])
        np.testing.assert_allclose(pair.adjacency, expected, atol=2e-5)
    found = analysis.descrambled(svdhooks.RunLog(tmp_path), "9")
    direct = svdhooks.linalg.descramble(outputs.T @ outputs / len(outputs))
    expected = (direct.P @ weights["9"].double()).abs()
    # each row is the weight in the direction of one principal component: up to its sign
    np.testing.assert_allclose(np.abs(found.descrambled), expected, atol=2e-5)


def test_a_snapshot_of_a_model_reads_like_a_log(tmp_path):
    model = _conv_net()
    with svdhooks.watch(
        model, tmp_path, every=2, quantities=QUANTITIES, probe=IMAGES, max_overhead=None
    ):
        pass
    sink = svdhooks.snapshot(model, IMAGES)
    from_log = analysis.spectral_graph(svdhooks.RunLog(tmp_path), step=0)
    now = analysis.spectral_graph(sink)
    assert [pair["name"] for pair in sink.pairs] == PAIRS
    assert (sink.layers, sink.edges) == (("0", "4", "7", "9"), tuple(PAIRS))
    for one, other in zip(now.pairs, from_log.pairs, strict=True):
        np.testing.assert_array_equal(one.adjacency, other.adjacency)
        assert one.significant == other.significant
    np.testing.assert_allclose(
        analysis.descrambled(sink, "7").descrambled,
        analysis.descrambled(svdhooks.RunLog(tmp_path), "7", step=0).descrambled,
        atol=1e-6,
    )


def test_a_batch_norm_can_be_folded_into_the_graph_of_a_log(tmp_path):
    model = _conv_net()
    with svdhooks.watch(
        model, tmp_path, every=2, quantities=QUANTITIES, probe=IMAGES, max_overhead=None
    ) as recorder:
        _train(model, recorder)
    norm = model[1]
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    folded = scale[:, None, None, None] * model[0].weight
    expected = _adjacency(folded, model[4].weight)
    log = svdhooks.RunLog(tmp_path)
    assert [pair["norm"] for pair in log.pairs] == [True, False, False]
    found = analysis.spectral_graph(log, fold_batch_norm=True).pairs
    np.testing.assert_allclose(found[0].adjacency, expected, atol=2e-5)
    plain = analysis.spectral_graph(log).pairs
    assert np.abs(found[0].adjacency - plain[0].adjacency).max() > 1e-3
    np.testing.assert_array_equal(found[1].adjacency, plain[1].adjacency)


def test_a_scale_that_was_not_recorded_is_told(tmp_path):
    model = _conv_net()
    vectors = svdhooks.WeightVectors(k=None, schedule=svdhooks.at(0))
    with svdhooks.watch(
        model, tmp_path, quantities=[vectors, "covariance"], probe=IMAGES
    ):
        pass
    log = svdhooks.RunLog(tmp_path)
    with pytest.raises(
        ValueError, match="no scale of the batch norm of 0->4 at step 0"
    ):
        analysis.spectral_graph(log, fold_batch_norm=True)
    with pytest.raises(ValueError, match="expected kind='svr'"):
        analysis.spectral_graph(log, fold_batch_norm=True, kind="cosvr")


def test_layer_pairs_says_what_feeds_what():
    found = svdhooks.layer_pairs(_conv_net(), IMAGES)
    assert [pair.name for pair in found.pairs] == PAIRS
    assert found.pairs[0].norm is not None
    assert found.pairs[1].positions == 16


def test_unknown_names_are_told_at_setup(tmp_path):
    with pytest.raises(ValueError, match="fc9"):
        svdhooks.watch(
            _conv_net(),
            tmp_path / "run",
            quantities=[svdhooks.SpectralEdges(pairs=[("0", "fc9")])],
        )
    assert not (tmp_path / "run").exists()


def test_layers_that_do_not_fit_are_told_at_setup(tmp_path):
    with pytest.raises(ValueError, match=r"(?s)0.*9|expected"):
        svdhooks.watch(
            _conv_net(),
            tmp_path,
            quantities=[svdhooks.SpectralEdges(pairs=[("4", "9")])],
        )


def test_given_pairs_need_no_batch(tmp_path):
    model = _conv_net()
    edges = svdhooks.SpectralEdges(pairs=[("0", "4")], schedule=svdhooks.at(0))
    with svdhooks.watch(model, tmp_path, quantities=[edges]):
        pass
    steps, _ = svdhooks.RunLog(tmp_path).series("0->4", "edges_top")
    assert steps.tolist() == [0]


def test_where_nothing_is_a_pair_that_is_said_with_the_reason(tmp_path):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.up, self.down = (nn.Linear(6, 6) for _ in range(3))

        def forward(self, x):
            return self.down(self.gate(x).sigmoid() * self.up(x))

    edges = svdhooks.SpectralEdges(schedule=svdhooks.at(0))
    with (
        pytest.warns(RecordingWarning, match="no layer was seen to feed another"),
        svdhooks.watch(Gated(), tmp_path, quantities=[edges], probe=torch.randn(4, 6)),
    ):
        pass
    skipped = svdhooks.RunLog(tmp_path).skipped
    assert any("->down" in name for name in skipped)


def test_compiled_models_and_several_models(tmp_path):
    models = {"a": _conv_net(), "b": _conv_net()}
    with svdhooks.watch(
        models,
        tmp_path,
        quantities=["spectral_edges", "weight_spectrum"],
        probe={"a": IMAGES, "b": IMAGES},
    ):
        pass
    log = svdhooks.RunLog(tmp_path)
    assert [p["name"] for p in log.pairs][:1] == ["a.0->a.4"]
    a, b = (log.series(f"{m}.0->{m}.4", "edges_top")[1] for m in "ab")
    np.testing.assert_array_equal(a, b)


def test_the_default_says_nothing_about_pairs(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with svdhooks.watch(_conv_net(), tmp_path, probe=IMAGES):
            pass
    log = svdhooks.RunLog(tmp_path)
    assert log.pairs == ()
    assert not [layer for layer in log.layers if "->" in layer]


def test_plan_shows_the_pairs_and_what_they_cost():
    plan = svdhooks.plan(
        _conv_net(), IMAGES, quantities=["spectral_edges", "weight_vectors"]
    )
    rows = {row.name: row for row in plan.layers}
    assert set(PAIRS) <= set(rows)
    assert all(rows[name].costs["spectral_edges"].seconds > 0 for name in PAIRS)
