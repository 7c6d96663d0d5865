"""TensorBoard's names of runs and directories, against its own readers."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing import (
    data_ingester,
    plugin_event_multiplexer,
)

from svdhooks.dashboard.locating import directory_of, found_on_disk, name_of, roots
from tests.logs import write_run
from tests.unit.dashboard.serving import Page, SpectraPlugin, context

SPECS = (
    "/logs/a",
    "one:/logs/a,two:/logs/b",
    "/logs/a:with/colon",
    "one:/logs/a:b,/logs/c",
    "gs://bucket/x,name:s3://bucket/y",
    "relative,~/home",
    "same:/logs/a,/logs/a",
)


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_is_read_as_tensorboard_reads_it(spec: str) -> None:
    expected = data_ingester._parse_event_files_spec(spec)
    found = {root.path: root.group or None for root in roots(None, spec)}
    assert found == expected
    assert all((r.local is None) == ("://" in r.path) for r in roots(None, spec))


def test_nothing_is_nowhere() -> None:
    assert roots(None, None) == roots("", "") == ()
    assert directory_of("run", ()) is None


LAYOUT = ("", "exp", "exp/deep/er", "odd name, with:colon")


@pytest.mark.parametrize("spec", ["{0}", "group:{0}", "group:{0}/exp,{0}/other"])
def test_every_run_of_tensorboards_is_where_it_says(tmp_path: Path, spec: str) -> None:
    for inner in LAYOUT:
        write_run(tmp_path / inner, range(2))
    write_run(tmp_path / "other" / "x", range(2))
    known = roots(None, spec.format(tmp_path))
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    for root in known:
        multiplexer.AddRunsFromDirectory(root.path, root.group or None)
    ours = [run for run in multiplexer.Runs() if run.endswith("svdhooks")]
    assert len(ours) >= 2
    on_disk = dict(found_on_disk(known))
    assert {name_of(run) for run in ours} == set(on_disk)
    for run in ours:
        path = directory_of(run, known)
        assert path is not None
        assert path.resolve() == (on_disk[name_of(run)] / "svdhooks").resolve()


def test_the_directory_itself_may_be_the_run(tmp_path: Path) -> None:
    write_run(tmp_path / "exp", range(2))
    for logdir in (tmp_path / "exp", tmp_path / "exp" / "svdhooks"):
        page = Page(SpectraPlugin(context(logdir), rest=0.0))
        (row,) = page.json("runs")["runs"]
        assert row["name"] == "."
        assert row["title"] == logdir.name
        tree, _ = page.bundle("overview", run=".")
        assert len(tree["run"]["layers"]) == 2


def test_several_directories_with_names(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "run", range(2))
    write_run(tmp_path / "b" / "run", range(3))
    spec = f"one:{tmp_path / 'a'},two:{tmp_path / 'b'}"
    page = Page(SpectraPlugin(context(spec=spec), rest=0.0))
    rows = {row["name"]: row["records"] for row in page.json("runs")["runs"]}
    assert rows == {"one/run": 2, "two/run": 3}


def test_a_sub_run_of_another_name_is_found_by_tensorboards(tmp_path: Path) -> None:
    write_run(tmp_path, range(2))
    (tmp_path / "svdhooks").rename(tmp_path / "kept")
    assert directory_of("kept", roots(str(tmp_path), None)) == tmp_path / "kept"
