"""Runs whose files are elsewhere, through both of TensorBoard's readers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svdhooks.dashboard.catalog import Catalog
from svdhooks.dashboard.plugin import SpectraPlugin
from svdhooks.dashboard.provided import Provided, ProvidedLog
from svdhooks.eventfile.values import scalar
from svdhooks.eventfile.writer import EventFileWriter
from svdhooks.runlog import RunLog
from svdhooks.schema import display_index
from tests.logs import LOADERS, step_records, write_run
from tests.unit.dashboard.serving import Page, context, files_page, provided_page
from tests.unit.dashboard.test_data import collapsing, everything, plain

READERS = sorted(LOADERS)


@pytest.mark.parametrize("reader", READERS)
def test_what_tensorboard_has_is_what_the_files_say(
    tmp_path: Path, reader: str
) -> None:
    everything(tmp_path / "exp" / "one", range(0, 100, 10)).close()
    writer = EventFileWriter(tmp_path / "exp" / "one")
    for step in range(0, 100, 5):
        writer.write(step, [scalar("train/loss", 1.0 / (1 + step))])
    writer.close()
    expected, arrays = files_page(tmp_path).bundle("overview", run="exp/one")
    with provided_page(reader, tmp_path, "exp/one") as page:
        (row,) = page.json("runs")["runs"]
        assert (row["name"], row["local"], row["records"]) == ("exp/one", False, 10)
        found, shown = page.bundle("overview", run="exp/one")
        for key in ("measures", "steps", "layers", "scalars", "alarms", "verdict"):
            told = plain(found["run"][key], shown)
            assert in_order(told) == in_order(plain(expected["run"][key], arrays)), key
        assert found["run"]["path"] == "s3://elsewhere/logs/exp/one/svdhooks"
        layers = files_page(tmp_path)
        whole, there = layers.bundle("layer", run="exp/one", layer="b")
        told, here = page.bundle("layer", run="exp/one", layer="b")
        for key in ("spectra", "local_rank", "ledger", "measures"):
            same = in_order(plain(whole[key], there))
            assert in_order(plain(told[key], here)) == same, key
        error = page.json("descrambled", 404, run="exp/one", layer="b")
        assert "not here" in error["error"]


def in_order(told: Any) -> Any:
    """Measures sorted by name: the data server does not keep the order of tags."""
    if (
        isinstance(told, list)
        and told
        and isinstance(told[0], dict)
        and "call" in told[0]
    ):
        return sorted(told, key=lambda row: str(row["call"]))
    return told


@pytest.mark.parametrize("reader", READERS)
def test_long_spectra_come_in_their_display_form(tmp_path: Path, reader: str) -> None:
    write_run(tmp_path / "run", range(0, 30, 10), n=600)
    steps, values = RunLog(tmp_path / "run").spectra("fc1")
    with provided_page(reader, tmp_path) as page:
        told, arrays = page.bundle("layer", run="run", layer="fc1")
    entry = told["spectra"]["weight"]
    index = display_index(600)
    np.testing.assert_array_equal(arrays.array(entry["steps"]), steps)
    np.testing.assert_array_equal(arrays.array(entry["index"]), index)
    np.testing.assert_array_equal(arrays.array(entry["values"]), values[:, index])
    assert entry["entries"] == 600


@pytest.mark.parametrize("reader", READERS)
def test_alarms_are_found_there_too(tmp_path: Path, reader: str) -> None:
    collapsing(tmp_path / "run", 60)
    expected, _ = files_page(tmp_path).bundle("overview", run="run")
    with provided_page(reader, tmp_path) as page:
        found, _ = page.bundle("overview", run="run")
    assert found["run"]["alarms"] == expected["run"]["alarms"] != []


@pytest.mark.parametrize("reader", READERS)
def test_names_pass_through_tensorboard(tmp_path: Path, reader: str) -> None:
    names = ("a/b", "50%", "<script>", "слой", "x" * 2_000)
    write_run(tmp_path / "run & <b>", range(3), names)
    with provided_page(reader, tmp_path, "run & <b>") as page:
        found, _ = page.bundle("overview", run="run & <b>")
        assert [row["name"] for row in found["run"]["layers"]] == list(names)
        for name in names:
            told, _ = page.bundle("layer", run="run & <b>", layer=name)
            assert set(told["spectra"]) == {"weight", "input", "output"}


@pytest.mark.parametrize("reader", READERS)
def test_files_are_read_where_they_are(tmp_path: Path, reader: str) -> None:
    write_run(tmp_path / "run", range(3), n=600)
    with LOADERS[reader](tmp_path, "run/svdhooks") as loader:
        plugin = SpectraPlugin(context(tmp_path, provider=loader._provider), rest=0.0)
        (row,) = Page(plugin).json("runs")["runs"]
        assert row["local"]
        log = plugin._catalog.run("run", "").log
        assert not isinstance(log, ProvidedLog)
        write_run(tmp_path / "later", range(3))  # TensorBoard has not come to it
        assert len(Page(plugin).json("runs")["runs"]) == 2


def test_a_growing_run_is_followed(tmp_path: Path) -> None:
    sink = everything(tmp_path / "run", range(0, 30, 10))
    with LOADERS["python"](tmp_path) as loader:
        plugin = SpectraPlugin(context("gs://x/y", provider=loader._provider), rest=0.0)
        page = Page(plugin)
        first, _ = page.bundle("overview", run="run")
        assert page.json("overview", run="run", known=first["token"])["unchanged"]
        sink.write(step_records(40, ("a", "b")))
        loader._provider._multiplexer.Reload()
        later, arrays = page.bundle("overview", run="run", known=first["token"])
        assert arrays.array(later["run"]["steps"]).tolist() == [0, 10, 20, 40]
    sink.close()


def test_a_provider_that_fails_leaves_the_files(tmp_path: Path) -> None:
    class Broken:
        def list_tensors(self, *_: object, **__: object) -> None:
            raise RuntimeError("the data server is gone")

    write_run(tmp_path / "run", range(3))
    catalog = Catalog(str(tmp_path), None, Provided(Broken()))
    assert list(catalog.places("")) == ["run"]
