"""Runs side by side: grouped, aligned, held against seeds, and honest where they cannot be."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import svdhooks
from svdhooks.analysis.comparison import Comparison, compare
from svdhooks.analysis.comparison.axes import align, envelope
from tests.planted import RANK, Planted, seeds, write_planted

FALLING = np.geomspace(40, 10, 30)


def pair(first, second, **options) -> Comparison:
    """Two groups, each a list of runs."""
    runs = {f"a seed{i}": run for i, run in enumerate(first)}
    runs |= {f"b seed{i}": run for i, run in enumerate(second)}
    return compare(runs, **options)


def constant(*levels: float, length: int = 10, **more) -> list[Planted]:
    return [Planted({"fc": np.full(length, level)}, **more) for level in levels]


# --- what users have -------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    for lr, level in ((0.1, 20.0), (1.0, 5.0)):
        for seed in range(3):
            write_planted(
                path / f"lr{lr}-{seed}",
                {"fc": level + 0.1 * seed + np.arange(6.0), "out": [3, 3, 3, 3, 3, 3]},
                hparams={"optim": {"lr": lr}, "seed": seed},
            )
    return path


def test_a_directory_a_mapping_and_lists_give_the_same(root: Path) -> None:
    logs = svdhooks.runs(root)
    paths = sorted(root.iterdir())
    every = [root, logs, paths, [*map(str, paths)], [*logs.values()]]
    found = [compare(given) for given in every]
    assert {c.headline() for c in found} == {found[0].headline()}
    assert all(c.differences == found[0].differences for c in found)
    assert [g.name for g in found[0].groups] == ["lr=0.1", "lr=1.0"]
    assert [len(g.runs) for g in found[0].groups] == [3, 3]
    assert compare([root]).differences == found[0].differences


def test_the_mean_and_the_ratio_are_those_of_the_last_quarter(root: Path) -> None:
    found = compare(root, by="lr", layers="fc")
    (row,) = found.differences
    late = {
        level: np.exp(
            np.mean([np.log(level + 0.1 * s + i) for s in range(3) for i in (5,)])
        )
        for level in (20.0, 5.0)
    }
    np.testing.assert_allclose(row.reference_value, late[20.0], rtol=1e-6)
    np.testing.assert_allclose(row.value, late[5.0], rtol=1e-6)
    np.testing.assert_allclose(row.change, late[5.0] / late[20.0], rtol=1e-6)
    assert row.low < row.change < row.high < 1
    assert (row.differs, row.when, row.since) == (True, "end", 0)
    assert (row.runs, row.reference_runs, row.scale) == (3, 3, "ratio")


def test_what_is_the_same_everywhere_does_not_differ(root: Path) -> None:
    (row,) = compare(root, layers="out").differences
    assert (row.differs, row.change) == (False, 1.0)
    assert np.isnan(row.since)


def test_another_reference_turns_the_ratio_around(root: Path) -> None:
    found = compare(root, layers="fc")
    turned = found.against("lr=1.0")
    np.testing.assert_allclose(
        turned.differences[0].change, 1 / found.differences[0].change
    )
    assert turned.differences[0].group == "lr=0.1"
    with pytest.raises(ValueError, match=r"No group 'x'; there is lr=0.1, lr=1.0"):
        found.against("x")


def test_everything_is_ready_for_json(root: Path) -> None:
    found = compare(root)
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert [row["layer"] for row in told["rows"]] == [
        d.layer for d in found.differences
    ]
    curve = next(c for c in told["curves"] if c["layer"] == "fc")
    assert curve["x"] == [0, 10, 20, 30, 40, 50]
    mean = np.exp(
        np.mean([np.log(20 + 0.1 * s + np.arange(6)) for s in range(3)], axis=0)
    )
    np.testing.assert_allclose(curve["groups"]["lr=0.1"]["mean"], mean, rtol=1e-5)
    few = found.as_dict(curves=1)
    assert len(few["curves"]) == 1
    assert few["notes"][-1] == "Curves of 1 of 2 are drawn."


def test_the_table_has_a_row_for_each_difference(root: Path) -> None:
    found = compare(root)
    table = found.frame()
    assert table["layer"].tolist() == [d.layer for d in found.differences]
    assert table["change"].tolist() == [d.change for d in found.differences]


def test_reading_a_comparison_loads_no_torch(root: Path) -> None:
    code = (
        "import sys, svdhooks; c = svdhooks.compare(sys.argv[1]); c.text(); c.as_dict();"
        "import svdhooks.analysis.trajectory; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(root)], check=True)


# --- groups ----------------------------------------------------------------------------


def test_groups_are_ordered_by_number_and_runs_without_the_value_are_last() -> None:
    runs = {
        str(lr): Planted(
            {"fc": FALLING}, hparams={} if lr is None else {"lr": lr, "n": 1}
        )
        for lr in (10, None, 2, 0.5)
    }
    found = compare(runs, by=["lr"])
    assert [g.name for g in found.groups] == ["lr=0.5", "lr=2", "lr=10", "lr=?"]


def test_names_without_their_seeds_are_groups_where_no_hyper_parameter_is_known() -> (
    None
):
    names = ["seed0/wide", "seed1/wide", "narrow-seed_3", "narrow-seed=4", "seedling"]
    found = compare({name: Planted({"fc": FALLING}) for name in names})
    assert [(g.name, len(g.runs)) for g in found.groups] == [
        ("wide", 2),
        ("narrow", 2),
        ("seedling", 1),
    ]


def test_seeds_of_one_thing_are_each_compared_with_the_first() -> None:
    found = compare({f"seed{i}": Planted({"fc": FALLING}) for i in range(3)})
    assert [g.runs for g in found.groups] == [("seed0",), ("seed1",), ("seed2",)]
    assert "differ in no hyper-parameter" in found.notes[0]


def test_a_mapping_says_the_groups() -> None:
    runs = {name: Planted({"fc": FALLING}) for name in "xyz"}
    found = compare(runs, by={"x": "one", "y": "two", "z": "two"})
    assert [(g.name, g.runs) for g in found.groups] == [
        ("one", ("x",)),
        ("two", ("y", "z")),
    ]
    with pytest.raises(ValueError, match="by= names no group of 'z'"):
        compare(runs, by={"x": "one", "y": "two"})


def test_what_else_differs_within_a_group_is_told() -> None:
    runs = {
        f"{lr} {wd}": Planted({"fc": FALLING}, hparams={"lr": lr, "wd": wd, "seed": 0})
        for lr in (1, 2)
        for wd in (0, 1)
    }
    notes = " ".join(compare(runs, by="lr").notes)
    assert "Runs of one group also differ in wd" in notes
    assert "Runs within 'lr=1', 'lr=2' share a seed" in notes


def test_a_log_directory_is_no_hyper_parameter() -> None:
    runs = {
        f"{lr} {s}": Planted(
            {"fc": FALLING}, hparams={"lr": lr, "log_dir": f"{lr}{s}", "seed": s}
        )
        for lr in (1, 2)
        for s in (0, 1)
    }
    assert [g.name for g in compare(runs).groups] == ["lr=1", "lr=2"]


def test_the_name_of_an_optimiser_is_one() -> None:
    runs = {
        f"{name} {s}": Planted({"fc": FALLING}, hparams={"optim.name": name, "seed": s})
        for name in ("sgd", "adam")
        for s in (0, 1)
    }
    assert [g.name for g in compare(runs).groups] == ["name=adam", "name=sgd"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "lrr"}, r"No run has the hyper-parameter 'lrr'; there is lr"),
        (
            {"metric": "rank"},
            r"No measure matches metric='rank'; there are weight_stable",
        ),
        ({"layers": "conv*"}, r"No layer matches layers='conv\*'; there are fc"),
        ({"align": "loss"}, r"align='loss': no run can be aligned by it"),
        ({"align": "stpe"}, r"it has no 'stpe'; it has no value of the run"),
        ({"by": "depth"}, r"All runs are in one group \('depth=3': a, b\)"),
    ],
)
def test_what_cannot_be_had_is_said_with_what_there_is(options, message) -> None:
    runs = {
        name: Planted({"fc": FALLING}, hparams={"lr": lr, "depth": 3})
        for name, lr in (("a", 1), ("b", 2))
    }
    with pytest.raises(ValueError, match=message):
        compare(runs, **options)


@pytest.mark.usefixtures("as_a_user_calls")
def test_too_few_runs_and_things_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Found no run, expected two or more"):
        compare(tmp_path)
    write_planted(tmp_path / "only", {"fc": [1.0]})
    with pytest.raises(ValueError, match="Found one run, 'only'"):
        compare(tmp_path)
    with pytest.raises(TypeError, match=r"Found int, expected a svdhooks\.RunLog"):
        compare([1, 2])
    with pytest.raises(ValueError, match="A path is given twice"):
        compare([tmp_path / "only", tmp_path / "only"])
    with pytest.raises(FileNotFoundError):
        compare([tmp_path / "only", tmp_path / "none"])


# --- honesty ---------------------------------------------------------------------------


def test_one_run_each_has_no_spread_and_nothing_is_called_different() -> None:
    found = pair(constant(10.0), constant(1.0))
    (row,) = found.differences
    np.testing.assert_allclose(row.change, 0.1)
    assert row.differs is None
    for unknown in (row.p, row.p_adjusted, row.effect, row.low, row.since):
        assert np.isnan(unknown)
    assert "what seeds alone do is not known" in found.headline()


def test_a_single_run_beside_several_is_held_against_their_spread() -> None:
    near = pair(constant(10.0, 11.0, 12.0), constant(11.5)).differences[0]
    far = pair(constant(10.0, 11.0, 12.0), constant(1.0)).differences[0]
    assert (near.differs, far.differs) == (False, True)


def test_counts_that_agree_in_all_seeds_differ_by_more_than_counting() -> None:
    one_apart = pair(constant(40.0, 40.0, 40.0), constant(41.0, 41.0, 41.0))
    far_apart = pair(constant(40.0, 40.0, 40.0), constant(10.0, 10.0, 10.0))
    assert one_apart.differences[0].p > far_apart.differences[0].p
    assert far_apart.differences[0].differs
    assert any("agree in every digit" in note for note in far_apart.notes)


def test_what_may_be_zero_is_compared_by_differences() -> None:
    found = pair(constant(0.0, 0.01, 0.02), constant(0.5, 0.52, 0.51))
    (row,) = found.differences
    assert row.scale == "difference"
    np.testing.assert_allclose(row.change, 0.5)


def test_layers_that_are_not_everywhere_are_listed() -> None:
    more = [Planted({"fc": FALLING, "new": FALLING}) for _ in range(2)]
    found = pair(constant(3.0, 4.0, length=30), more)
    assert found.absent == {"new": ("a seed0", "a seed1")}
    assert [row.layer for row in found.differences] == ["fc"]
    assert "new is not in a seed0, a seed1." in found.text()


def test_runs_of_other_lengths_and_steps_are_compared_where_they_overlap() -> None:
    # one straight line, read at other steps
    def line(steps):
        return Planted({"fc": 100.0 + np.array(steps)}, steps)

    first = [line(range(0, 100, 10)), line(range(5, 205, 20))]
    second = [line(range(0, 300, 7)), line([0, 30, 60])]
    found = pair(first, second)
    curve = found.curve("fc")
    assert (curve.x[0], curve.x[-1]) == (5, 60)
    for values in curve.values.values():
        np.testing.assert_allclose(values, 100 + curve.x)
    assert any(note.startswith("b seed1 ends at step 60 of") for note in found.notes)


def test_what_is_not_finite_is_left_out_and_counted() -> None:
    broken = FALLING.copy()
    broken[[3, 4]] = np.nan
    broken[7] = np.inf
    runs = [Planted({"fc": FALLING}), Planted({"fc": broken})]
    found = pair(runs, constant(1.0, 1.1, length=30))
    assert any("a seed1 3" in note for note in found.notes)
    values = found.curve("fc").values["a seed1"]
    np.testing.assert_allclose(values[4], np.interp(40, [20, 50], FALLING[[2, 5]]))


def test_runs_without_common_points_say_so() -> None:
    late = Planted({"fc": [1.0, 2.0]}, steps=[100, 110])
    with pytest.raises(ValueError, match="no two runs have weight_stable_rank"):
        pair([Planted({"fc": [1.0, 2.0]}, steps=[0, 10])], [late])


def test_single_records_are_compared() -> None:
    found = pair(constant(1.0, 1.1, 1.05, length=1), constant(9.0, 9.1, 9.2, length=1))
    (row,) = found.differences
    assert (row.differs, row.since) == (True, 0)


def test_a_difference_on_the_way_that_is_gone_at_the_end_is_called_so() -> None:
    random = np.random.default_rng(3)
    first = seeds(random, 5, 1, records=40)
    second = seeds(random, 5, 1, records=40)
    for run in second:
        run.curves["layer0"][8:24] *= 0.1
    (row,) = pair(first, second).differences
    assert (row.when, row.since, row.until) == ("way", 80, 230)
    assert row.low < 1 < row.high


# --- other axes ------------------------------------------------------------------------


def test_epochs_of_other_lengths_meet_at_equal_epochs() -> None:
    # the value is the epoch; one run takes 10 steps for an epoch, the other 40
    fast, slow = (
        Planted({"fc": 1 + steps / size}, steps, run={"epoch": steps // size})
        for size, steps in ((10, np.arange(0, 50, 2)), (40, np.arange(0, 200, 4)))
    )
    found = pair([fast], [slow], align="epoch")
    curve = found.curve("fc")
    for values in curve.values.values():
        np.testing.assert_allclose(values, 1 + curve.x)
    assert curve.x[-1] > 4.5
    assert found.align == "epoch"


def test_at_equal_loss_a_slower_run_is_no_other_run() -> None:
    # the rank is a function of the loss alone; one run takes twice as long
    t = np.linspace(0, 1, 60)
    loss = 2 * np.exp(-3 * t)
    fast = Planted({"fc": 10 * loss}, run={"loss": loss})
    steps = range(0, 1200, 20)
    slow = Planted({"fc": 10 * loss}, steps, run={"loss": loss})
    by_step = pair([fast], [slow]).curve("fc")
    assert np.ptp([v[-1] for v in by_step.values.values()]) > 1
    by_loss = pair([fast], [slow], align="loss")
    curve = by_loss.curve("fc")
    first, second = curve.values.values()
    np.testing.assert_allclose(first, second, rtol=1e-6)
    assert by_loss.align == "loss"
    assert (np.diff(curve.x) < 0).all()
    np.testing.assert_allclose(curve.x[[0, -1]], [loss[0], loss[-1]], rtol=0.1)
    np.testing.assert_allclose(first[5:-5], 10 * curve.x[5:-5], rtol=0.05)


def test_a_run_whose_loss_never_falls_is_left_out_and_named() -> None:
    loss = np.linspace(2, 1, 30)
    runs = {
        name: Planted({"fc": FALLING}, run={"loss": curve})
        for name, curve in (("a", loss), ("b", loss), ("c", loss[::-1]))
    }
    found = compare(runs, align="loss")
    assert [g.name for g in found.groups] == ["a", "b"]
    assert "c is left out: its 'loss' never falls." in found.notes


def test_the_envelope_never_rises_and_forgets_one_lucky_batch() -> None:
    random = np.random.default_rng(0)
    loss = np.exp(-np.linspace(0, 3, 200))
    noisy = loss * np.exp(0.1 * random.standard_normal(200))
    noisy[20] = 0.0
    found = envelope(noisy)
    assert (np.diff(found) <= 0).all()
    assert found[25] > 0.5
    assert np.abs(np.log(found / loss))[10:].max() < 0.25
    np.testing.assert_array_equal(envelope(np.array([3.0, 1.0])), [3.0, 1.0])


def test_a_plateau_of_the_loss_is_reached_at_its_first_step() -> None:
    loss = np.array([3.0, 3, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1])
    axis = align({"a": Planted({"fc": loss}, run={"loss": loss})}, "loss").axes["a"]
    (step,) = axis.steps_at(np.array([-2.0]))
    assert 29 <= step <= 31


def test_a_scalar_of_the_logger_is_an_axis_too(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for name, size in (("a", 10), ("b", 30)):
        curve = np.geomspace(8, 1, 20)
        steps = np.arange(20) * size
        log = write_planted(tmp_path / name, {"fc": 5 * curve}, steps.tolist())
        with SummaryWriter(str(log.log_dir)) as writer:
            for step, value in zip(steps, curve, strict=True):
                writer.add_scalar("train/nll", value, step)
    curve = compare(tmp_path, align="train/nll").curve("fc")
    first, second = curve.values.values()
    np.testing.assert_allclose(first, second, rtol=1e-3)


# --- names are text --------------------------------------------------------------------


HOSTILE = ["[red]x[/red]", "../../etc", "a,b\nc", "\x1b[31mred", "<b>", "层" * 300]


def test_hostile_names_are_text() -> None:
    runs = {
        f"{name} seed{i}": Planted(dict.fromkeys(HOSTILE, FALLING * (1 + i / 9)))
        for name in HOSTILE
        for i in range(2)
    }
    found = compare(runs)
    text = found.text(100)
    assert "\x1b" not in text
    assert "[red]x[/red]" in text
    assert {row["layer"] for row in found.rows()} == set(HOSTILE)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_lines_of_the_text_keep_to_its_width(width: int) -> None:
    random = np.random.default_rng(0)
    found = pair(seeds(random, 3, 30), seeds(random, 3, 30, {1: -3.0}))
    assert max(map(len, found.text(width).splitlines())) <= max(width, 60)
    assert "… and 10 more: .rows()" in found.text(width)


def test_an_unknown_curve_names_those_there_are() -> None:
    found = pair(constant(1.0), constant(2.0))
    assert found.curve("fc", RANK).layer == "fc"
    with pytest.raises(
        KeyError, match=r"No measure of layer 'fd' is compared; there are"
    ):
        found.curve("fd")
