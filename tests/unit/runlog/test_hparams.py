"""Hyper-parameters are found where others wrote them, and nothing is executed."""

from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from svdhooks.runlog import RunLog
from svdhooks.runlog.hparams import flat, session_start
from svdhooks.sinks.tensorboard import TensorBoardSink
from tests.logs import meta_record, weight_record, write_run


def written(path: Path, **settings: object) -> RunLog:
    """A run of one record with those settings."""
    sink = TensorBoardSink(path)
    sink.write([meta_record(["fc1"], settings=settings), weight_record(0, "fc1")])
    sink.close()
    return RunLog(path)


def test_what_the_run_was_told_is_read_back_with_dots(tmp_path: Path) -> None:
    told = {
        "lr": 0.1,
        "model": {"depth": 3, "act": None, "bias": False},
        "dims": [1, 2],
    }
    assert written(tmp_path / "a", hparams=told).hparams == {
        "lr": 0.1,
        "model.depth": 3,
        "model.act": "None",
        "model.bias": False,
        "dims": "[1, 2]",
    }


def test_a_run_that_nobody_told_anything_has_none(tmp_path: Path) -> None:
    assert written(tmp_path / "a").hparams == {}


def test_lightnings_file_is_read_and_the_run_itself_goes_first(tmp_path: Path) -> None:
    log = written(tmp_path / "a", hparams={"lr": 0.5})
    (log.log_dir / "hparams.yaml").write_text("lr: 0.1\noptim:\n  wd: 1\n")
    assert log.hparams == {"lr": 0.5, "optim.wd": 1}


def test_the_file_that_lightning_writes_agrees_with_the_loggers_events(
    tmp_path,
) -> None:
    params = {"lr": 0.1, "model": {"depth": 3, "dims": [1, 2]}, "name": "a b"}
    logger = TensorBoardLogger(tmp_path)
    logger.log_hyperparams(params)
    logger.save()
    logger.finalize("success")
    log = written(Path(logger.log_dir))
    from_file = log.hparams
    (log.log_dir / "hparams.yaml").unlink()
    assert from_file == log.hparams
    assert from_file == {
        "lr": 0.1,
        "model.depth": 3,
        "model.dims": "[1, 2]",
        "name": "a b",
    }


def test_those_of_a_summary_writer_stand_in_a_directory_below(tmp_path: Path) -> None:
    log = written(tmp_path / "a")
    with SummaryWriter(str(log.log_dir)) as writer:
        writer.add_hparams({"lr": 0.25, "batch": 32, "opt": "adam"}, {"acc": 0.5})
    assert log.hparams == {"lr": 0.25, "batch": 32, "opt": "adam"}


def test_no_object_of_the_file_is_made(tmp_path: Path) -> None:
    log = written(tmp_path / "a")
    marker = tmp_path / "made"
    (log.log_dir / "hparams.yaml").write_text(
        f"lr: 1\nevil: !!python/object/apply:os.mkdir ['{marker}']\n"
        "f: !!python/name:builtins.len ''\nt: !!python/tuple [1, 2]\n"
        "o: !!python/object:argparse.Namespace {depth: 2}\nc: !custom x\n"
    )
    assert log.hparams == {
        "lr": 1,
        "evil": f'["{marker}"]',
        "f": "builtins.len",
        "t": "[1, 2]",
        "o.depth": 2,
        "c": "x",
    }
    assert not marker.exists()


@pytest.mark.parametrize(
    "content", ["{", "- 1\n- 2", "\x00", "a: &a [*a]", "? [1]\n: 2"]
)
def test_a_file_that_is_no_mapping_or_broken_does_not_stop_a_reader(
    tmp_path: Path, content: str
) -> None:
    log = written(tmp_path / "a", hparams={"lr": 1})
    (log.log_dir / "hparams.yaml").write_text(content)
    assert log.hparams["lr"] == 1


def test_a_file_that_unfolds_to_billions_stays_small(tmp_path: Path) -> None:
    log = written(tmp_path / "a")
    lines = ["a0: &a0 {x: 1, y: 2, z: 3}"]
    for i in range(1, 40):
        lines.append(f"a{i}: &a{i} {{x: *a{i - 1}, y: *a{i - 1}, z: *a{i - 1}}}")
        lines.append(f"l{i}: [{', '.join([f'*a{i - 1}'] * 9)}]")
    (log.log_dir / "hparams.yaml").write_text("\n".join(lines))
    found = log.hparams
    assert len(found) == 10_000
    assert max(map(len, map(str, found.values()))) <= 1_000


def test_damaged_metadata_say_nothing() -> None:
    whole = b"\x1a\x11\n\x0f\n\x02lr\x12\t\x11\x9a\x99\x99\x99\x99\x99\xb9?"
    assert session_start(whole) == {"lr": 0.1}
    for cut in range(1, len(whole)):
        assert session_start(whole[:cut]) == {}


def test_what_has_no_names_gives_nothing() -> None:
    assert flat([1, 2]) == flat(None) == flat("x") == {}
    assert flat({1: {2: 3}}) == {"1.2": 3}


def test_the_table_has_a_column_for_each(tmp_path: Path) -> None:
    log = written(tmp_path / "a", hparams={"lr": 0.1, "step": "warm"})
    table = log.frame(hparams=True)
    plain = log.frame()
    assert list(table.columns) == [*plain.columns, "hparam.lr", "hparam.step"]
    assert table[plain.columns].equals(plain)
    assert set(table["hparam.lr"]) == {0.1}
    assert set(table["hparam.step"]) == {"warm"}


def test_the_table_of_a_run_without_any_is_the_plain_one(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [0, 1])
    log = RunLog(tmp_path / "a")
    assert log.frame(hparams=True).equals(log.frame())
