"""What loggers get: recorded stand-ins of each kind, and one real run of W&B."""

import math
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch

import svdhooks
from svdhooks.record import Record
from svdhooks.reports import RecordingWarning
from svdhooks.sinks._images import RankMap, colour
from svdhooks.sinks._targets import mlflow_name
from svdhooks.sinks.loggers import LoggerSink, logger_sink
from tests.logs import meta_record, run_record, step_records, weight_record
from tests.wandb_files import offline_history

LAYERS = [f"layer{i}" for i in range(11)]


class Plain:
    """A logger of no known kind."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, Any], int]] = []

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        self.calls.append((metrics, step))


class Dashed(Plain):
    group_separator = "-"


class CSVLogger(Plain):
    saved = 0

    def save(self) -> None:
        self.saved += 1


class MLFlowLogger(Plain):
    _prefix = "train"


class WandbLogger(Plain):
    """Takes pictures."""


class TensorBoardLogger(Plain):
    """Has an event file of ours beside it."""


class DummyLogger(Plain):
    """Lightning's, of trial runs."""


class Broken(Plain):
    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        raise ConnectionError("no route to host")


def _values(records: list[Record], point: str, field: str) -> list[float]:
    return [float(r.values[field]) for r in records if r.point == point]


# --- what is sent ----------------------------------------------------------------------


def test_one_call_per_record_gives_the_quantiles_over_layers():
    logger = Plain()
    records = step_records(30, LAYERS)
    LoggerSink(logger).write(records)
    ((metrics, step),) = logger.calls
    assert step == 30
    for point, field in (("weight", "spectral_norm"), ("output", "effective_rank")):
        values = sorted(_values(records, point, field))
        name = f"svdhooks/{point}_{field}"
        # of 11 layers every tenth of the way is one of them
        assert metrics[f"{name}/min"] == values[0]
        assert metrics[f"{name}/p10"] == pytest.approx(values[1])
        assert metrics[f"{name}/median"] == values[5]
        assert metrics[f"{name}/p90"] == pytest.approx(values[9])
    assert metrics["svdhooks/overhead"] == 0.01
    assert metrics["svdhooks/layers_failed"] == 0
    assert len(metrics) == 18
    assert all(type(value) is float for value in metrics.values())


def test_the_separator_is_that_of_the_logger():
    logger = Dashed()
    LoggerSink([logger]).write(step_records(0, LAYERS))
    assert "svdhooks-weight_stable_rank-median" in logger.calls[0][0]


def test_the_step_is_that_of_the_logger_where_it_is_known():
    logger = Plain()
    sink = LoggerSink(logger)
    sink.write([run_record(8, logged_step=7), weight_record(8, "fc1")])
    sink.write([run_record(9), weight_record(9, "fc1")])
    assert [step for _, step in logger.calls] == [7, 9]


def test_failed_layers_are_counted_and_left_out_of_the_statistics():
    logger = Plain()
    values = {"stable_rank": np.asarray(np.nan), "spectrum": np.full(3, np.nan)}
    failed = [
        Record(0, "bad", "weight_spectrum", values, status="out of memory", point=point)
        for point in ("weight", "output")
    ]
    good = weight_record(0, "good")
    LoggerSink(logger).write([good, *failed])
    metrics = logger.calls[0][0]
    assert metrics["svdhooks/layers_failed"] == 1
    value = float(good.values["stable_rank"])
    assert metrics["svdhooks/weight_stable_rank/min"] == pytest.approx(value)
    assert metrics["svdhooks/weight_stable_rank/p90"] == pytest.approx(value)


def test_a_step_of_which_everything_failed_sends_no_statistic():
    logger = Plain()
    values = {"stable_rank": np.asarray(np.nan)}
    LoggerSink(logger).write([
        Record(0, "bad", "weight_spectrum", values, status="no", point="weight")
    ])
    assert logger.calls == [({"svdhooks/layers_failed": 1.0}, 0)]


def _elsewhere(step: int, **fields: int) -> list[Record]:
    return [
        Record(step, layer, point, {f"m{i}": np.asarray(float(i)) for i in range(n)})
        for point, n in fields.items()
        for layer in LAYERS
    ]


def test_other_points_share_the_room_that_is_left():
    logger = Plain()
    sink = LoggerSink(logger)
    sink.write([*step_records(0, LAYERS), *_elsewhere(0, tokens=30, expert_load=2)])
    first = logger.calls[0][0]
    assert len(first) == 24
    extra = {name for name in first if "tokens" in name or "expert" in name}
    assert extra == {
        *(f"svdhooks/tokens_m{i}/median" for i in range(4)),
        *(f"svdhooks/expert_load_m{i}/median" for i in range(2)),
    }
    assert first["svdhooks/tokens_m3/median"] == 3
    # what comes later finds no room, and the names stay
    others = _elsewhere(1, late=3, tokens=30, expert_load=2)
    sink.write([*step_records(1, LAYERS), *others])
    assert logger.calls[1][0].keys() == first.keys()


def test_layers_are_sent_on_request_and_none_is_taken_for_a_statistic():
    logger = Plain()
    records = step_records(0, ["median", "a/b"])
    LoggerSink(logger, per_layer=True).write(records)
    metrics = logger.calls[0][0]
    median = _values(records, "weight", "stable_rank")
    assert metrics["svdhooks_layers/weight_stable_rank/median"] == median[0]
    assert metrics["svdhooks_layers/weight_stable_rank/a%2Fb"] == median[1]
    assert metrics["svdhooks/weight_stable_rank/median"] == pytest.approx(
        np.mean(median)
    )
    assert len(metrics) == 18 + 4 * 2


# --- kinds of loggers ------------------------------------------------------------------


def test_nothing_is_sent_to_tensorboard_and_to_dummies():
    silent = [TensorBoardLogger(), DummyLogger()]
    sink = LoggerSink(silent)
    sink.write(step_records(0, LAYERS))
    assert [logger.calls for logger in silent] == [[], []]
    assert sink.names == ()
    assert logger_sink(silent) is None
    assert logger_sink([]) is None


def test_a_trainers_loggers_give_a_sink_for_those_that_need_it():
    plain = Plain()
    sink = logger_sink([TensorBoardLogger(), plain], per_layer=True)
    assert sink is not None
    assert sink.names == ("Plain",)
    sink.write(step_records(0, ["fc1"]))
    assert "svdhooks_layers/weight_stable_rank/fc1" in plain.calls[0][0]


@pytest.mark.parametrize("wrong", [3, "wandb", [object()], Plain])
def test_what_is_no_logger_is_refused(wrong):
    with pytest.raises(TypeError, match="log_metrics"):
        LoggerSink(wrong)


def test_a_csv_file_is_saved_at_each_record_and_told_its_columns_at_once():
    logger = CSVLogger()
    sink = LoggerSink([logger])
    settings = {"quantities": [{"name": "weight_spectrum"}, {"name": "covariance"}]}
    meta = meta_record(["fc1"], settings=settings)
    # the first record of a plain loop has weights only
    sink.write([meta, run_record(0), weight_record(0, "fc1")])
    sink.write(step_records(10, ["fc1"]))
    first, second = (metrics for metrics, _ in logger.calls)
    assert logger.saved == 2
    assert first.keys() == second.keys()
    assert math.isnan(first["svdhooks/output_effective_rank/min"])
    assert math.isfinite(first["svdhooks/weight_stable_rank/min"])


def test_mlflow_gets_chunks_of_a_thousand_names_that_it_accepts():
    logger = MLFlowLogger()
    names = [f"block{i}:{'x' * 300}" for i in range(400)] + ["a:b", "a_b"]
    LoggerSink([logger], per_layer=True).write(step_records(3, names))
    sizes = [len(metrics) for metrics, _ in logger.calls]
    assert sizes == [1000, 18 + 4 * 402 - 1000]
    assert {step for _, step in logger.calls} == {3}
    sent = [name for metrics, _ in logger.calls for name in metrics]
    assert len(set(sent)) == len(sent)
    assert all(len(f"train-{name}") <= 250 for name in sent)
    assert all(re.fullmatch(r"[A-Za-z0-9_/. -]+", name) for name in sent)
    assert "svdhooks/weight_stable_rank/median" in sent


def test_names_that_mlflow_accepts_are_kept():
    assert mlflow_name("svdhooks/a b.c-d_e/median") == "svdhooks/a b.c-d_e/median"
    assert mlflow_name("x" * 251) != mlflow_name("x" * 252)


# --- when one of them fails ------------------------------------------------------------


def test_a_logger_that_fails_keeps_no_other_from_its_values():
    before, after = Plain(), Plain()
    sink = LoggerSink([before, Broken(), after])
    with pytest.raises(RuntimeError, match="1 of 3 loggers failed: Broken: Connection"):
        sink.write(step_records(0, LAYERS))
    assert len(before.calls) == len(after.calls) == 1


def test_in_a_run_it_is_one_warning_and_the_run_goes_on():
    good = Plain()
    model = torch.nn.Linear(3, 2)
    with (
        pytest.warns(RecordingWarning, match="no route to host") as told,
        svdhooks.watch(
            model,
            None,
            every=1,
            quantities=["weight_spectrum"],
            sinks=[LoggerSink([Broken(), good])],
        ) as recorder,
    ):
        recorder.step()
    assert len(told) == 1
    assert [step for _, step in good.calls] == [0, 1]


# --- pictures --------------------------------------------------------------------------


def test_colours_are_those_of_viridis():
    matplotlib = pytest.importorskip("matplotlib")
    levels = np.linspace(0, 1, 17)
    expected = matplotlib.colormaps["viridis"](levels)[:, :3] * 255
    np.testing.assert_allclose(colour(10**levels), expected, rtol=0, atol=0.5)


def test_larger_values_are_lighter():
    light = colour(np.geomspace(1, 1000, 300)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(light) > -1).all()  # each channel is rounded
    assert light[-1] > 10 * light[0]


def test_what_cannot_be_drawn_is_grey_and_equal_values_are_one_colour():
    colours = colour(np.array([np.nan, np.inf, 0.0, -1.0, 5.0, 5.0]))
    assert (colours[:4] == 128).all()
    assert (colours[4] == colours[5]).all()
    assert colours[4].tolist() == [33, 145, 140]  # the middle of viridis
    assert (colour(np.full((2, 2), np.nan)) == 128).all()


def test_a_map_has_one_cell_per_layer_and_step():
    history = RankMap()
    history.add(0, {"a": 1.0, "b": 100.0})
    history.add(10, {"b": 10.0, "late": 1.0})
    np.testing.assert_array_equal(history.matrix, [[1, np.nan], [100, 10], [np.nan, 1]])
    image = history.image()
    cells = image[24::48, 24::48]
    assert cells.shape == (3, 2, 3)
    dark, light, middle = [68, 1, 84], [253, 231, 37], [33, 145, 140]
    grey = [128] * 3
    assert cells.tolist() == [[dark, grey], [light, middle], [grey, dark]]
    assert "3 layers" in history.caption("rank")
    assert "steps 0 to 10" in history.caption("rank")
    assert "1 (dark) to 100" in history.caption("rank")


def test_a_long_run_is_thinned_evenly_and_ends_with_the_latest_step():
    history = RankMap()
    for step in range(3001):
        history.add(step, {"a": float(step)})
        if step % 500 == 1:
            assert history.matrix[0, -1] == step
    kept = history.matrix[0]
    assert kept[-1] == 3000
    assert 256 <= len(kept) <= 513
    assert set(np.diff(kept[:-1])) == {8}


class Wandb:
    """Stands in for the package: what its constructors were given."""

    @staticmethod
    def Image(pixels: Any, caption: str) -> tuple[Any, ...]:
        return "image", pixels.shape, caption

    @staticmethod
    def Histogram(np_histogram: Any) -> tuple[Any, ...]:
        return "histogram", *np_histogram


class Run:
    """Stands in for a run; W&B counts one step per committed call."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = [{}]
        self.metrics: dict[str, Any] = {}

    @property
    def step(self) -> int:
        return len(self.rows) - 1

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.metrics[name] = step_metric

    def log(self, data: dict[str, Any], commit: bool | None = None) -> None:
        self.rows[-1] |= data
        if commit is not False:
            self.rows.append({})


Run.__module__ = "wandb.sdk.wandb_run"


@pytest.fixture
def wandb_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Wandb)


@pytest.mark.usefixtures("wandb_stand_in")
def test_pictures_and_histograms_come_in_the_same_call():
    logger = WandbLogger()
    LoggerSink(logger, histograms=3).write(step_records(0, LAYERS))
    ((metrics, _),) = logger.calls
    pictures = {name: v for name, v in metrics.items() if isinstance(v, tuple)}
    assert pictures.keys() == {
        "svdhooks/weight_stable_rank/map",
        "svdhooks/output_effective_rank/map",
        "svdhooks_spectra/layer0",
        "svdhooks_spectra/layer3",
        "svdhooks_spectra/layer7",
    }
    kind, shape, caption = pictures["svdhooks/weight_stable_rank/map"]
    assert (kind, shape[2]) == ("image", 3)
    assert "11 layers" in caption
    spectrum = weight_record(0, "layer3").spectrum
    kind, counts, edges = pictures["svdhooks_spectra/layer3"]
    assert counts.sum() == len(spectrum)
    assert (edges[0], edges[-1]) == (spectrum.min(), spectrum.max())


@pytest.mark.usefixtures("wandb_stand_in")
def test_pictures_become_rarer_as_the_run_grows():
    logger = WandbLogger()
    sink = LoggerSink(logger)
    for step in range(2000):
        sink.write([weight_record(step, "fc1", n=2)])
    drawn = [step for m, step in logger.calls if "svdhooks/weight_stable_rank/map" in m]
    assert drawn[:16] == list(range(16))
    assert 40 < len(drawn) < 70
    assert len(logger.calls) == 2000


def test_without_pictures_wandb_is_not_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails
    logger = WandbLogger()
    LoggerSink(logger, images=False).write(step_records(0, LAYERS))
    assert len(logger.calls[0][0]) == 18


@pytest.mark.usefixtures("wandb_stand_in")
def test_a_run_in_a_plain_loop_keeps_the_users_own_steps():
    run = Run()
    sink = LoggerSink(run, images=False)
    for step in range(3):
        run.log({"loss": 1.0})
        sink.write(step_records(step, LAYERS))
    assert run.step == 3
    # ours are in the row that the user's next call commits
    assert [row.get("svdhooks/step") for row in run.rows] == [None, 0, 1, 2]
    assert run.metrics["svdhooks/*"] == "svdhooks/step"
    sink.close()
    assert run.step == 4


@pytest.mark.usefixtures("wandb_stand_in")
def test_a_run_to_which_nobody_else_logs_keeps_every_record():
    run = Run()
    sink = LoggerSink(run)
    for step in (0, 10, 20):
        sink.write(step_records(step, LAYERS))
    sink.close()
    sink.close()
    assert [row.get("svdhooks/step") for row in run.rows] == [0, 10, 20, None]
    assert "svdhooks/weight_stable_rank/map" in run.rows[1]


# --- Weights & Biases itself -----------------------------------------------------------


@pytest.mark.slow
def test_a_real_offline_run_has_numbers_pictures_and_the_users_rows(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_SILENT", "1")
    wandb = pytest.importorskip("wandb")
    # by argument: the environment is read once per process, by the first run
    with wandb.init(project="svdhooks", mode="offline", dir=tmp_path) as run:
        sink = LoggerSink(run, histograms=1)
        for step in (0, 10):
            run.log({"loss": 1.0}, step=step)
            sink.write(step_records(step, LAYERS))
            run.log({"val_loss": 2.0}, step=step)  # would be dropped had we committed
        sink.close()
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    rows = offline_history(path)
    assert [row["_step"] for row in rows] == ["0", "10"]
    for row, step in zip(rows, (0, 10), strict=True):
        assert (row["loss"], row["val_loss"]) == ("1", "2")
        assert row["svdhooks/step"] == str(step)
        values = _values(step_records(step, LAYERS), "output", "effective_rank")
        told = float(row["svdhooks/output_effective_rank/median"])
        assert told == pytest.approx(np.median(values))
        assert (
            sum(map(int, row["svdhooks_spectra/layer0/values"][1:-1].split(","))) == 8
        )
        picture = row["svdhooks/weight_stable_rank/map/path"].strip('"')
        assert (path.parent / "files" / picture).stat().st_size > 0
