"""The spectral graph of a log against that of the weights themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

import svdhooks
from svdhooks import MemorySink, linalg
from svdhooks.analysis import SpectralGraph, spectral_graph
from svdhooks.layers import find_layers
from svdhooks.layers.pairs import make_pair


@dataclass
class Fake:
    """A log of what it is given: layer -> weights, step by step."""

    weights: Mapping[str, Mapping[int, torch.Tensor]]
    described: Mapping[str, Mapping[str, Any]]
    pairs: tuple[Mapping[str, Any], ...] = ()
    k: int | None = None
    stored: dict[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self.described)

    def vectors(self, layer: str, point: str = "weight") -> Any:
        if point != "weight" or layer not in self.weights:
            raise KeyError(f"No vectors of {point} of layer {layer!r}")
        steps = sorted(self.weights[layer])
        columns: dict[str, list[Any]] = {"U": [], "sigma": [], "Vh": []}
        for step in steps:
            svd = torch.linalg.svd(self.weights[layer][step], full_matrices=False)
            U, sigma, Vh = (
                x.to(torch.complex64 if x.is_complex() else torch.float32).numpy()
                for x in svd
            )
            kept = slice(self.k)
            parts = {"U": U[:, kept], "sigma": sigma[kept], "Vh": Vh[kept]}
            for name, array in parts.items():
                columns[name].append(array)
        return np.array(steps), columns


def logged(net: nn.Module, names: list[tuple[str, str]], **options: Any) -> Fake:
    """What a log of these layers would hold, and the pairs."""
    layers = {x.name: x for x in find_layers(net).layers}
    return Fake(
        {name: {3: layer.weight().double()} for name, layer in layers.items()},
        {name: layer.describe() for name, layer in layers.items()},
        tuple(make_pair(layers[a], layers[b]).describe() for a, b in names),
        **options,
    )


def convolutions() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 2), nn.Linear(36, 5))


CHAIN = [("0", "1"), ("1", "2")]


def test_the_graph_of_a_log_is_that_of_the_weights():
    net = convolutions()
    graph = spectral_graph(logged(net, CHAIN))
    assert graph.step == 3
    first, second = graph.pairs
    weights = [net[i].weight.detach().double() for i in range(3)]
    for pair, (a, b) in ((first, weights[:2]), (second, weights[1:])):
        expected = linalg.spectral_adjacency(a, b).numpy()
        np.testing.assert_allclose(pair.adjacency, expected, atol=1e-5)
        c, z = pair.features, pair.positions
        assert pair.threshold == linalg.significance_threshold(c, z)
        assert pair.p == pytest.approx(0.00134990, rel=1e-5)
        assert pair.expected_false == pytest.approx(pair.p * expected.size)
        assert pair.significant == (expected > pair.threshold).sum()
        dims = linalg.internal_dimensions(pair.adjacency, c)
        assert pair.internal_dimensions == dims
    assert (first.kind, first.features, first.positions) == ("conv-conv", 6, 4)
    assert (second.kind, second.features, second.positions) == ("conv-fc", 4, 9)
    sigma = torch.linalg.svdvals(weights[0].flatten(1)).numpy()
    np.testing.assert_allclose(first.source_sigma, sigma, rtol=1e-5)


def test_cosvr_from_all_vectors_and_refused_without():
    net = convolutions()
    graph = spectral_graph(logged(net, CHAIN), kind="cosvr")
    weights = [net[i].weight.detach().double() for i in range(3)]
    for pair, a, b, z in zip(graph.pairs, weights, weights[1:], (9, 4), strict=False):
        expected = linalg.spectral_adjacency(a, b, kind="cosvr").numpy()
        np.testing.assert_allclose(pair.adjacency, expected, atol=1e-5)
        assert pair.positions == z
    with pytest.raises(ValueError, match="k=None"):
        spectral_graph(logged(net, CHAIN, k=2), kind="cosvr")


def test_leading_neurons_are_a_corner_of_the_whole():
    source = logged(convolutions(), CHAIN)
    whole, part = spectral_graph(source), spectral_graph(source, k=2)
    stored = spectral_graph(replace(source, k=2))
    for a, b, c in zip(whole.pairs, part.pairs, stored.pairs, strict=True):
        np.testing.assert_array_equal(a.adjacency[:2, :2], b.adjacency)
        np.testing.assert_allclose(c.adjacency, b.adjacency, rtol=1e-12)
        assert a.threshold == b.threshold
        assert b.expected_false == b.p * 4


@pytest.mark.slow
def test_logs_of_a_training_give_the_graph_of_the_live_model(tmp_path):
    net, sink = convolutions(), MemorySink()
    with svdhooks.watch(
        net,
        tmp_path / "run",
        every=1,
        sinks=[sink],
        quantities=[svdhooks.WeightVectors(k=None, schedule=svdhooks.every(1))],
        max_overhead=None,
    ) as recorder:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        recorder.step()
    weights = [net[i].weight.detach().double() for i in range(3)]
    for source in (svdhooks.RunLog(tmp_path / "run"), sink):
        graph = spectral_graph(source, pairs=CHAIN)
        assert graph.step == 1
        for pair, a, b in zip(graph.pairs, weights, weights[1:], strict=False):
            expected = linalg.spectral_adjacency(a, b).numpy()
            np.testing.assert_allclose(pair.adjacency, expected, atol=1e-4)
        assert [x.positions for x in graph.pairs] == [4, 9]
        turned = spectral_graph(source, pairs=CHAIN, kind="cosvr").pairs[0]
        expected = linalg.spectral_adjacency(*weights[:2], kind="cosvr").numpy()
        np.testing.assert_allclose(turned.adjacency, expected, atol=1e-4)


def planted(steps: tuple[int, ...] = (1, 2)) -> Fake:
    """Two layers whose leading neurons are one chain each."""
    Q = [torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0] for _ in range(3)]
    s = torch.diag(torch.arange(8.0, 0.0, -1.0, dtype=torch.float64))
    a, b = Q[0] @ s @ Q[1], Q[2] @ s @ Q[0].T
    rows = {
        name: {"name": name, "kind": "linear", "shape": [8, 8], "points": {"input": 8}}
        for name in ("a", "b")
    }
    row = {"name": "a->b", "source": "a", "target": "b", "kind": "fc-fc"}
    row |= {"stream": False, "features": 8, "positions": 1}
    weights = {"a": dict.fromkeys(steps, a), "b": {2: b}}
    return Fake(weights, rows, (row,))


def test_the_table_of_edges_is_a_graph_of_networkx():
    graph = spectral_graph(planted())
    table = graph.edges()
    assert len(table) == graph.pairs[0].significant == 8
    assert set(zip(table["source"], table["target"], strict=True)) == {
        (f"a[{i}]", f"b[{i}]") for i in range(8)
    }
    read = nx.from_pandas_edgelist(table, edge_attr=True, create_using=nx.DiGraph)
    assert read.number_of_edges() == 8
    assert read["a[3]"]["b[3]"]["weight"] == pytest.approx(1, abs=1e-5)
    assert read["a[3]"]["b[3]"]["p_value"] < 1e-10
    assert read["a[3]"]["b[3]"]["stream"] in {False, np.False_}
    own = graph.to_networkx()
    assert set(own.edges) == set(read.edges)
    assert own.number_of_nodes() == 16
    assert own.nodes["b[0]"]["sigma"] == pytest.approx(8, rel=1e-5)
    empty = SpectralGraph(0, ())
    assert list(empty.edges().columns) == list(table.columns)
    assert nx.from_pandas_edgelist(empty.edges()).number_of_edges() == 0


def test_the_last_step_that_all_layers_have():
    assert spectral_graph(planted()).step == 2
    assert spectral_graph(planted((1, 2, 5))).step == 2
    with pytest.raises(ValueError, match="no step at which all layers"):
        spectral_graph(planted((1,)))
    with pytest.raises(ValueError, match="at step 1; there are some at steps 2"):
        spectral_graph(planted(), 1)


def test_significance_by_p_and_the_nulls():
    graph = spectral_graph(planted(), p=0.15, null="chi2")
    (pair,) = graph.pairs
    assert pair.threshold == linalg.significance_threshold(8, p=0.15, null="chi2")
    assert pair.expected_false == pytest.approx(0.15 * 64)
    assert (pair.p, pair.null) == (0.15, "chi2")
    # at three sigma the paper's threshold exceeds 1 here: nothing can be significant
    (paper,) = spectral_graph(planted(), null="chi2").pairs
    assert (paper.threshold > 1, paper.significant) == (True, 0)


def test_pairs_of_streams_may_be_left_out():
    source = planted()
    streamed = {**source.pairs[0], "stream": True}
    source = replace(source, pairs=(*source.pairs, streamed))
    assert [x.stream for x in spectral_graph(source).pairs] == [False, True]
    assert [x.stream for x in spectral_graph(source, streams=False).pairs] == [False]


def test_a_tied_layer_is_read_from_the_weight_that_it_shares():
    source = planted()
    flipped = source.weights["b"][2].T
    embedding = {**source.described["b"], "kind": "embedding"}
    tied = replace(
        source,
        weights={"a": source.weights["a"], "e": {2: flipped}},
        described={
            "a": source.described["a"],
            "e": embedding,
            "b": {**source.described["b"], "tied_to": "e"},
        },
    )
    (pair,) = spectral_graph(tied).pairs
    np.testing.assert_allclose(pair.adjacency, np.eye(8), atol=1e-5)


def test_without_a_step_it_is_the_last_that_all_layers_have():
    source = planted()
    a, b = (source.weights[name][2] for name in ("a", "b"))
    weights = {"a": {1: a, 2: a, 3: a}, "b": {1: b, 3: b, 4: b}}
    graph = spectral_graph(replace(source, weights=weights))
    assert graph.step == 3


@pytest.mark.parametrize("both", [True, False])
def test_the_share_of_false_edges_of_complex_weights_is_the_tail(both):
    torch.manual_seed(0)
    source, shares = planted(), []
    kinds = {"a": torch.complex128 if both else torch.float64, "b": torch.complex128}
    for _ in range(60):
        weights = {x: {2: torch.randn(8, 8, dtype=kind)} for x, kind in kinds.items()}
        (pair,) = spectral_graph(replace(source, weights=weights), p=0.05).pairs
        shares.append(pair.significant / pair.adjacency.size)
    error = np.std(shares, ddof=1) / len(shares) ** 0.5
    assert abs(np.mean(shares) - 0.05) < 3 * error
    assert error < 0.005
    assert pair.positions == 2


def test_a_weight_of_zeros_has_no_edges():
    source = planted()
    zeros = {"a": source.weights["a"], "b": {2: torch.zeros(8, 8, dtype=torch.float64)}}
    (pair,) = spectral_graph(replace(source, weights=zeros, k=0)).pairs
    assert pair.adjacency.size == pair.significant == 0
    assert pair.internal_dimensions == (0, 0)


@pytest.mark.usefixtures("as_a_user_calls")
def test_what_is_wrong_is_said():
    source = planted()
    with pytest.raises(ValueError, match="no pairs of layers in the log"):
        spectral_graph(replace(source, pairs=()))
    with pytest.raises(ValueError, match="no layer 'c' in the log"):
        spectral_graph(source, pairs=[("a", "c")])
    with pytest.raises(ValueError, match="without kind, stream"):
        spectral_graph(source, pairs=[{"source": "a", "target": "b"}])
    with pytest.raises(ValueError, match="expected the names of two"):
        spectral_graph(source, pairs=["ab"])
    with pytest.raises(ValueError, match="expected 'svr' or 'cosvr'"):
        spectral_graph(source, kind="svd")
    with pytest.raises(ValueError, match="k=0"):
        spectral_graph(source, k=0)
    short = {**source.described["b"], "shape": [8, 9], "points": {"input": 9}}
    other = replace(
        source, described={"a": source.described["a"], "b": short}, pairs=()
    )
    with pytest.raises(ValueError, match="'a' with 8 outputs and 'b' with 9 inputs"):
        spectral_graph(other, pairs=[("a", "b")])
