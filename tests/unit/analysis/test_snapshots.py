"""A layer put together from a log, against the live model; nothing else is at hand."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import svdhooks
from svdhooks.analysis import layer_snapshot
from svdhooks.analysis.snapshots import Source, unpacked
from svdhooks.record import Record
from svdhooks.sinks.tensorboard import TensorBoardSink

EVERY = svdhooks.at(0, 2, 3)
QUANTITIES: list[Any] = [
    svdhooks.WeightVectors(k=None, schedule=EVERY),
    svdhooks.PointMoments(schedule=EVERY),
]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 5, 3, stride=2, padding=1)
        self.fc = nn.Linear(45, 7)
        self.head = nn.Linear(7, 3, bias=False)
        with torch.no_grad():  # of rank 2
            self.fc.weight.copy_(torch.randn(7, 2) @ torch.randn(2, 45))

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.relu(self.conv(x))
        return self.head(torch.relu(self.fc(maps.flatten(1))))


def train(log_dir: Path, quantities: Any = QUANTITIES) -> tuple[Any, Any, Any, Tensor]:
    """Log, memory, the models at steps 0 … 3, and the reference batch."""
    model, batch = Net(), torch.randn(40, 2, 6, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sink, models = svdhooks.MemorySink(), [copy.deepcopy(model)]
    with svdhooks.watch(
        model,
        log_dir,
        every=1,
        sinks=[sink],
        probe=batch,
        quantities=quantities,
        max_overhead=None,
    ) as recorder:
        for _ in range(3):
            model(torch.randn(16, 2, 6, 6)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            recorder.step()
            models.append(copy.deepcopy(model))
    return svdhooks.RunLog(log_dir), sink, models, batch


def points(model: Net, batch: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What enters and what leaves each layer; of the convolution patches."""
    with torch.no_grad():
        maps = model.conv(batch)
        cut = functional.unfold(batch, 3, padding=1, stride=2).mT.flatten(0, 1)
        flat = torch.relu(maps).flatten(1)
        hidden = model.fc(flat)
        active = torch.relu(hidden)
        return {
            "conv": (cut, maps.movedim(1, -1).flatten(0, 2)),
            "fc": (flat, hidden),
            "head": (active, model.head(active)),
        }


def test_a_log_gives_back_the_model_to_float32_rounding(tmp_path: Path) -> None:
    log, sink, models, batch = train(tmp_path)
    for step in (0, 2, 3):
        live = points(models[step], batch)
        for name, (entering, leaving) in live.items():
            module = models[step].get_submodule(name)
            weight = module.weight.detach().flatten(1).double().numpy()
            for source in (log, sink):
                found = layer_snapshot(source, name, step)
                assert (found.layer, found.step, found.complete) == (name, step, True)
                assert found.shape == weight.shape == found.weight().shape
                scale = np.abs(weight).max()
                np.testing.assert_allclose(found.weight(), weight, atol=2e-7 * scale)
                assert found.positions == (9 if name == "conv" else 1)
                if module.bias is None:
                    assert found.bias is None
                else:
                    np.testing.assert_array_equal(found.bias, module.bias.detach())
                for moment, samples in (
                    (found.input, entering),
                    (found.output, leaving),
                ):
                    X = samples.double().numpy()
                    assert moment is not None
                    assert moment.count == len(X)
                    raw = X.T @ X / len(X)
                    np.testing.assert_allclose(
                        moment.second_moment(), raw, atol=1e-6 * np.abs(raw).max()
                    )


def test_log_and_memory_hold_the_same_bits(tmp_path: Path) -> None:
    log, sink, _, _ = train(tmp_path)
    assert isinstance(log, Source)
    assert isinstance(sink, Source)
    assert dict(log.described) == json.loads(json.dumps(dict(sink.described)))
    assert log.described["conv"]["shape"] == [5, 18]
    assert log.describe("conv") == log.described["conv"]
    for layer in log.layers:
        for point in ("weight", "input_moments", "output_moments"):
            (steps, columns), (others, held) = (
                source.vectors(layer, point) for source in (log, sink)
            )
            assert steps.tolist() == others.tolist() == [0, 2, 3]
            assert columns.keys() == held.keys()
            for field, arrays in columns.items():
                for one, other in zip(arrays, held[field], strict=True):
                    np.testing.assert_array_equal(one, other)
                    assert one.dtype == other.dtype


def test_the_last_step_is_taken_and_others_are_named(tmp_path: Path) -> None:
    log, sink, _, _ = train(tmp_path)
    for source in (log, sink):
        assert layer_snapshot(source, "fc").step == 3
        with pytest.raises(ValueError, match=r"at step 1; .*at steps 0, 2, 3"):
            layer_snapshot(source, "fc", 1)
        with pytest.raises(KeyError, match=r"[nN]o layer 'fc9'"):
            layer_snapshot(source, "fc9")


def test_some_vectors_are_no_weight_and_the_error_says_what_to_record(
    tmp_path: Path,
) -> None:
    quantities = [svdhooks.WeightVectors(k=2, schedule=EVERY)]
    log, sink, models, _ = train(tmp_path, quantities)
    for source in (log, sink):
        found = layer_snapshot(source, "conv")
        assert (found.complete, found.input, found.output) == (False, None, None)
        assert found.U.shape == (5, 2)
        with pytest.raises(ValueError, match=r"has 2 .*WeightVectors\(k=None\)"):
            found.weight()
        # of rank 2 at the start, these are all there is
        whole = layer_snapshot(source, "fc", 0)
        assert whole.complete
        expected = models[0].fc.weight.detach()
        np.testing.assert_allclose(whole.weight(), expected, atol=1e-5)


def test_moments_of_another_step_are_not_taken(tmp_path: Path) -> None:
    quantities = [
        svdhooks.WeightVectors(k=None, schedule=svdhooks.at(0, 3)),
        svdhooks.PointMoments(points=("output",), schedule=svdhooks.at(0, 2)),
    ]
    log, _, _, _ = train(tmp_path, quantities)
    assert layer_snapshot(log, "fc", 3).output is None
    found = layer_snapshot(log, "fc", 0)
    assert found.input is None
    assert found.output is not None


def test_without_vectors_the_error_names_what_there_is(tmp_path: Path) -> None:
    log, sink, _, _ = train(tmp_path, [svdhooks.PointMoments(schedule=EVERY)])
    for source in (log, sink):
        with pytest.raises(
            KeyError, match=r"input_moments, output_moments.*WeightVectors"
        ):
            layer_snapshot(source, "fc")
    log, sink, _, _ = train(tmp_path / "other", "weight_spectrum")
    for source in (log, sink):
        with pytest.raises(KeyError, match=r"(stored|recorded): none"):
            layer_snapshot(source, "fc")


def test_a_layer_that_is_not_there_is_not_to_be_recorded() -> None:
    sink = svdhooks.snapshot(nn.Linear(5, 6), torch.randn(4, 5))
    with pytest.raises(KeyError, match="there is linear") as caught:
        layer_snapshot(sink, "fc")
    assert "WeightVectors" not in str(caught.value)


def test_a_tied_layer_is_read_where_its_weight_is_filed() -> None:
    model = nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 5), nn.Linear(5, 9))
    model[2].weight = model[0].weight
    sink = svdhooks.snapshot(model, torch.randint(9, (40,)))
    own, tied = (layer_snapshot(sink, name) for name in ("0", "2"))
    assert (own.tied_to, tied.tied_to) == (None, "0")
    assert tied.bias is None
    weight = model[2].weight.detach().numpy()
    np.testing.assert_allclose(tied.weight(), weight, atol=1e-6)
    np.testing.assert_allclose(own.weight(), weight.T, atol=1e-6)
    assert tied.output is not None
    assert len(tied.output.mean) == 9


def test_an_older_log_says_by_its_triplets_whether_it_is_whole(tmp_path: Path) -> None:
    U, sigma, Vh = np.linalg.svd(
        np.random.default_rng(0).random((4, 3)), full_matrices=False
    )
    sink = TensorBoardSink(tmp_path)
    row = {"name": "fc", "kind": "linear", "points": {"input": 3, "output": 4}}
    meta = {"json": np.array(json.dumps({"schema": 1, "layers": [row]}))}
    sink.write([Record(0, "", "meta", meta)])
    for step, k in enumerate((3, 2)):
        values = {"U": U[:, :k], "sigma": sigma[:k], "Vh": Vh[:k]}
        sink.write([Record(step, "fc", "weight_vectors", values, point="weight")])
    sink.close()
    log = svdhooks.RunLog(tmp_path)
    assert layer_snapshot(log, "fc", 0).complete
    assert not layer_snapshot(log, "fc", 1).complete


def test_a_lost_layer_table_is_not_guessed() -> None:
    values = {"U": np.eye(4), "sigma": np.ones(4), "Vh": np.eye(4)}
    sink = svdhooks.MemorySink([
        Record(0, "a", "weight_vectors", values, point="weight")
    ])
    with pytest.raises(ValueError, match="says nothing of 'a'"):
        layer_snapshot(sink, "a")
    lacking = {"U": np.eye(4)}
    sink = svdhooks.MemorySink([
        Record(0, "a", "weight_vectors", lacking, point="weight")
    ])
    with pytest.raises(ValueError, match="lack sigma"):
        layer_snapshot(sink, "a")


def test_complex_weights_come_back(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 3, dtype=torch.complex64))
    sink = svdhooks.MemorySink()
    with svdhooks.watch(model, tmp_path, sinks=[sink], quantities=QUANTITIES[:1]):
        pass
    for source in (sink, svdhooks.RunLog(tmp_path)):
        found = layer_snapshot(source, "0")
        np.testing.assert_allclose(found.weight(), model[0].weight.detach(), atol=1e-6)
        np.testing.assert_array_equal(found.bias, model[0].bias.detach())


def test_a_triangle_unpacks_to_the_matrix() -> None:
    matrix = np.arange(16.0).reshape(4, 4)
    matrix = matrix + matrix.T
    triangle = np.concatenate([matrix[i, i:] for i in range(4)])
    np.testing.assert_array_equal(unpacked(triangle, 4), matrix)
