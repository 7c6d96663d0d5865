"""The examples of local rank: what they tell is what happened, and rank falls."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import svdhooks


def one_matrix_each(model, layer, x, eps=0.01):
    """The local rank of one layer, sample by sample, in float64 and reverse mode."""
    names = [name for name, _ in model.named_children()]
    up_to = nn.Sequential(*list(model)[: names.index(layer) + 1]).double()
    jacobians = torch.func.vmap(torch.func.jacrev(up_to))(x.double()).detach()
    model.float()
    return torch.linalg.matrix_rank(jacobians, atol=eps).double().mean().item()


def told_by(tell, *arguments):
    """What a function tells a terminal of 80 columns, line by line, word by word."""
    screen = io.StringIO()
    tell(Console(file=screen, width=80), *arguments)
    assert "…" not in screen.getvalue()
    return [line.split() for line in screen.getvalue().splitlines()]


def line_of(lines, first):
    return next(line for line in lines if line[:1] == [first])


@pytest.fixture(scope="module")
def falls(example):
    return example("local_rank_falls")


@pytest.fixture(scope="module")
def gaussian(example):
    return example("local_rank_gaussian")


@pytest.fixture(scope="module")
def digits(falls, tmp_path_factory):
    """A short run: the network and its log."""
    log_dir = tmp_path_factory.mktemp("falls")
    model = falls.record(log_dir, weight_decay=0.5, steps=10, seed=0)
    return model, svdhooks.RunLog(log_dir)


@pytest.fixture(scope="module")
def outcome(gaussian, tmp_path_factory):
    """A short run: the network and what came of it."""
    log_dir = tmp_path_factory.mktemp("gaussian")
    source = gaussian.Source.random(0)
    model = gaussian.record(log_dir, source, weight_decay=1.0, steps=10, seed=0)
    log, x = svdhooks.RunLog(log_dir), gaussian.probe(0)
    return model, gaussian.compare(model, log, source.bottleneck(), x)


def test_ranks_of_digits_are_those_of_one_matrix_after_the_other(falls, digits):
    model, log = digits
    x = falls.split_digits(0).test_x[:128]
    for layer in falls.LAYERS:
        history = log.local_rank(layer)
        assert history.steps.tolist() == [0, 10]
        assert history.samples.tolist() == [128, 128]
        assert history.mean[-1] == one_matrix_each(model, layer, x)


def test_ranks_of_digits_are_told_as_logged(falls, digits):
    _, log = digits
    lines = told_by(falls.tell_ranks, "weight decay 0.5", log)
    histories = [log.local_rank(layer) for layer in falls.LAYERS]
    histories.append(log.local_rank("layer4", relative=True))
    for row, step in enumerate(("0", "10")):
        shown = line_of(lines, step)
        assert shown[1:7] == [f"{each.mean[row]:.1f}" for each in histories]
        assert shown[-1] == f"{log.scalars('test_accuracy')[1][row]:.3f}"


def test_the_ledger_of_digits_is_told_as_logged(falls, digits):
    _, log = digits
    lines = told_by(falls.tell_ledger, {"weight decay 0.5": log})
    for layer in falls.LAYERS[1:-1]:
        ledger = log.ledger(layer)
        assert line_of(lines, layer)[1:] == [
            f"{log.local_rank(layer).mean[-1]:.1f}",
            f"{log.series(layer, 'jacobian_weight_rank')[1][-1]:.0f}",
            f"{ledger.input_null_share[-1]:.0%}",
            f"{ledger.nonlinearity_removed_share[-1]:.0%}",
            f"{ledger.negative_fraction[-1]:.0%}",
            f"{ledger.dead_fraction[-1]:.0%}",
        ]
    assert line_of(lines, "head")[-3:] == ["–"] * 3


def test_the_accuracy_told_is_that_of_the_network(falls, digits):
    model, log = digits
    data = falls.split_digits(0)
    right = (model(data.test_x).argmax(1) == data.test_y).double().mean()
    assert log.scalars("test_accuracy")[1][-1] == pytest.approx(right.item())
    *_, last = told_by(falls.tell_end, "weight decay 0.5", log)
    assert last[-1] == f"{right:.3f}"


def test_ranks_of_gaussians_begin_as_published(gaussian, outcome):
    _, found = outcome
    first = [found.log.local_rank(layer).mean[0] for layer in gaussian.LAYERS[:-1]]
    published = [100, 97.0, 94.3, 90.7]
    assert (np.abs(np.subtract(first, published)) <= [0, 1, 3, 3]).all()


def test_ranks_of_gaussians_are_those_of_one_matrix_after_the_other(gaussian, outcome):
    model, found = outcome
    for layer in gaussian.LAYERS[1:]:
        rank = one_matrix_each(model, layer, gaussian.probe(0))
        assert found.log.local_rank(layer).mean[-1] == rank


def test_ranks_of_gaussians_are_told_as_logged(gaussian, outcome):
    _, found = outcome
    lines = told_by(gaussian.tell_course, "weight decay 1", found.log)
    histories = [found.log.local_rank(layer) for layer in gaussian.LAYERS]
    histories.append(found.log.local_rank("layer4", relative=True))
    for row, step in enumerate(("0", "10")):
        shown = [f"{each.mean[row]:.1f}" for each in histories]
        assert line_of(lines, step)[1:] == shown


def test_the_bottleneck_beside_it_has_the_rank_of_the_output(gaussian, outcome):
    _, found = outcome
    lines = told_by(gaussian.tell_outcomes, {"weight decay 1": found})
    assert f"{found.along:.1%}" in line_of(lines, "decay")
    bottleneck = gaussian.Source.random(0).bottleneck()
    low, high = found.betas
    # just inside and just outside
    inside = low * (1 + 1e-6)
    assert bottleneck.rank(inside) == found.rank > bottleneck.rank(low)
    assert high == np.inf or bottleneck.rank(high * (1 + 1e-6)) == found.rank + 1
    squares = gaussian.CORRELATIONS.double().square().numpy()
    assert found.rank == (squares > 1 / inside).sum()


def test_half_of_a_map_that_reads_five_directions_of_ten_lies_along_them(
    gaussian, outcome
):
    _, found = outcome
    assert found.rank == 10
    source = gaussian.Source.random(0)
    linear = nn.Linear(100, 10, bias=False)
    full = torch.linalg.qr(source.directions, mode="complete").Q
    linear.weight.data = full[:, [0, 2, 4, 6, 8, 10, 20, 30, 40, 50]].T.clone()
    x = gaussian.probe(0)
    half = gaussian.compare(linear, found.log, source.bottleneck(), x)
    assert half.along == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("name", ["local_rank_falls", "local_rank_gaussian"])
@pytest.mark.slow
def test_a_run_from_the_command_line_leaves_logs_and_a_figure(
    name, example, tmp_path, capsys
):
    arguments = ["--steps", "2", "--weight-decay", "1", "0", "--out", str(tmp_path)]
    example(name).main(arguments)
    assert f"{tmp_path}" in capsys.readouterr().out.replace("\n", "")
    logs = svdhooks.runs(tmp_path)
    assert set(logs) == {"decay-0", "decay-1"}
    for log in logs.values():
        assert log.damage["bad"] == 0
        assert log.local_rank("layer4").steps.tolist() == [0, 2]
    assert (tmp_path / "local_rank.png").stat().st_size > 10_000


@pytest.mark.slow
def test_weight_decay_takes_the_rank_from_the_deepest_layer_first(falls, tmp_path):
    logs = {}
    for decay in (0.5, 0.0):
        log_dir = tmp_path / f"decay-{decay:g}"
        falls.record(log_dir, weight_decay=decay, steps=5000, seed=0)
        logs[decay] = svdhooks.RunLog(log_dir)

    def halved(layer, decay):
        """The first step with less than half of the first rank; infinite if none."""
        steps, mean = logs[decay].local_rank(layer)
        return min(steps[mean < mean[0] / 2], default=np.inf)

    hidden = falls.LAYERS[:-1]
    assert halved("layer4", 0.5) < np.inf
    by_depth = [halved(layer, 0.5) for layer in hidden]
    assert by_depth == sorted(by_depth, reverse=True)
    assert by_depth[0] > by_depth[-1]
    left = [logs[0.5].local_rank(x).mean[-1] for x in hidden]
    assert left == sorted(left, reverse=True)
    # without it the fall of none of them is half as deep
    for layer in hidden[1:]:
        lost = {
            d: -np.diff(log.local_rank(layer).mean[[0, -1]]) for d, log in logs.items()
        }
        assert lost[0.0] < lost[0.5] / 2
    for decay in logs:
        assert logs[decay].scalars("test_accuracy")[1][-1] > 0.95
