"""Spectral edges where models change, are initialised late or cannot be traced."""

import warnings

import pytest
import torch
from torch import nn
from torch.overrides import _len_torch_function_stack

import svdhooks
import svdhooks.analysis
from svdhooks.reports import RecordingWarning

SAMPLES = torch.randn(16, 12, generator=torch.Generator().manual_seed(0))


def _chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
    )


def _edges(*pairs: tuple[str, str]) -> svdhooks.SpectralEdges:
    return svdhooks.SpectralEdges(pairs=pairs or None, schedule=svdhooks.every(1))


def _watch(model, edges, **options):
    sink = svdhooks.MemorySink()
    recorder = svdhooks.watch(
        model,
        None,
        every=1,
        quantities=["weight_spectrum", edges],
        sinks=[sink],
        max_overhead=None,
        **options,
    )
    return recorder, sink


def _steps(sink, quantity: str, layer: str) -> list[int]:
    return [r.step for r in sink.records if (r.quantity, r.layer) == (quantity, layer)]


def test_a_given_pair_that_fits_no_more_is_told_and_the_rest_goes_on():
    model = _chain()
    recorder, sink = _watch(model, _edges(("0", "2"), ("2", "4")))
    with recorder:
        recorder.step()
        model[0] = nn.Linear(12, 20)
        model[1] = nn.Sequential(nn.ReLU(), nn.Linear(20, 16))
        with (
            pytest.warns(RecordingWarning, match=r"(?s)the pair '0->2'.*20 outputs"),
            pytest.warns(RecordingWarning, match="replaced"),
        ):
            recorder.step()
        recorder.step()
    assert _steps(sink, "spectral_edges", "0->2") == [0, 1]
    assert _steps(sink, "spectral_edges", "2->4") == [0, 1, 2, 3]
    assert _steps(sink, "weight_spectrum", "0") == [0, 1, 2, 3]


def test_traced_pairs_are_those_of_the_layers_that_there_are_now():
    model = _chain()
    recorder, sink = _watch(model, _edges(), probe=SAMPLES)
    with recorder:
        model[0] = nn.Linear(12, 20)
        model[1] = nn.Sequential(nn.ReLU(), nn.Linear(20, 16))
        with pytest.warns(RecordingWarning, match="replaced"):
            recorder.step()
    assert _steps(sink, "spectral_edges", "0->2") == [0]
    assert _steps(sink, "spectral_edges", "0->1.1") == [1]
    assert [pair["name"] for pair in sink.pairs] == ["0->1.1", "1.1->2", "2->4"]
    assert sink.layers == ("0", "1.1", "2", "4")
    assert sink.edges == ("0->2", "2->4", "0->1.1", "1.1->2")


@pytest.mark.parametrize(("pair", "text"), [(("0", "3"), "'3'"), (("2", "0"), "4 out")])
def test_pairs_of_lazy_layers_are_checked_once_these_have_shapes(pair, text):
    model = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(4))
    recorder, sink = _watch(model, _edges(pair))
    with recorder:
        model(SAMPLES)
        with pytest.warns(RecordingWarning, match=rf"(?s)the pair.*{text}"):
            recorder.step()
    assert _steps(sink, "weight_spectrum", "0") == [1]
    assert not _steps(sink, "spectral_edges", "->".join(pair))


def test_without_a_probe_the_pairs_have_to_be_given():
    with pytest.raises(ValueError, match=r"spectral_edges without pairs="):
        _watch(_chain(), _edges(), observe="training")
    recorder, sink = _watch(_chain(), _edges(("0", "2")), observe="training")
    recorder.close()
    assert _steps(sink, "spectral_edges", "0->2") == [0]


def test_vectors_are_freed_after_each_record():
    recorder, _ = _watch(_chain(), _edges(), probe=SAMPLES)
    with recorder:
        kept = [
            q for q in recorder._quantities if isinstance(q, svdhooks.SpectralEdges)
        ]
        assert [q._known for q in kept] == [{}]
        assert recorder.last["0->2", "edges"].ok


@pytest.mark.parametrize("look", [svdhooks.snapshot, svdhooks.layer_pairs])
def test_a_model_that_is_not_initialised_is_told(look):
    model = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(4))
    with pytest.raises(ValueError, match=r"(?s)lazy.*0, 2.*once on a batch"):
        look(model, SAMPLES)
    model(SAMPLES)
    assert [pair.name for pair in svdhooks.layer_pairs(model, SAMPLES).pairs] == [
        "0->2"
    ]
    assert [pair["name"] for pair in svdhooks.snapshot(model, SAMPLES).pairs] == [
        "0->2"
    ]


class _Untraceable(nn.Module):
    """Refuses what follows its tensors, as a kernel of its own might."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 4)

    def forward(self, x):
        if _len_torch_function_stack():
            raise RuntimeError("nobody may look")
        return self.second(self.first(x).relu())


def test_a_forward_that_cannot_be_traced_is_told_and_its_points_are_recorded():
    sink, said = svdhooks.MemorySink(), r"(?s)not while it is traced.*nobody may look"
    with (
        pytest.warns(RecordingWarning, match=said),
        svdhooks.watch(
            _Untraceable(),
            None,
            quantities=[_edges(), "covariance"],
            probe=SAMPLES,
            sinks=[sink],
        ),
    ):
        pass
    assert sink.of("covariance")
    assert all(record.ok for record in sink.of("covariance"))
    assert not sink.of("spectral_edges")
    with pytest.raises(ValueError, match=said):
        svdhooks.layer_pairs(_Untraceable(), SAMPLES)


def test_a_layer_may_be_called_like_a_pair(tmp_path):
    model = nn.Sequential()
    for name, module in zip(("a", "b", "a->b"), _chain()[::2], strict=True):
        model.add_module(name, module)
    recorder, sink = _watch(model, _edges(), probe=SAMPLES)
    recorder.close()
    with svdhooks.watch(model, tmp_path, quantities=[_edges()], probe=SAMPLES):
        pass
    for source in (sink, svdhooks.RunLog(tmp_path)):
        assert source.layers == ("a", "b", "a->b")
        assert source.edges == ("b->a->b",)
        assert source.series("a->b", "edges_rows")[1] == 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_live_and_from_the_log_it_is_the_same_graph(tmp_path, dtype):
    model = nn.Sequential(
        nn.Linear(12, 16, dtype=dtype), nn.Tanh(), nn.Linear(16, 16, dtype=dtype)
    )
    everything = svdhooks.WeightVectors(k=None, schedule=svdhooks.every(1))
    edges = svdhooks.SpectralEdges(pairs=[("0", "2")], schedule=svdhooks.every(1))
    recorder = svdhooks.watch(
        model, tmp_path, every=1, quantities=[everything, edges], max_overhead=None
    )
    with recorder, warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)  # of replaced layers
        model[0], model[2] = (
            nn.Linear(12, 20, dtype=dtype),
            nn.Linear(20, 16, dtype=dtype),
        )
        recorder.step()
    log = svdhooks.RunLog(tmp_path)
    for place, features in enumerate((16, 20)):
        (pair,) = svdhooks.analysis.spectral_graph(log, step=place).pairs
        assert pair.features == features
        for name in ("threshold", "significant", "features"):
            live = log.series("0->2", f"edges_{name}")[1][place]
            assert getattr(pair, name) == pytest.approx(live, rel=1e-6)
