"""The examples of spectral graphs: what they tell is what happened."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import svdhooks
from svdhooks.analysis import spectral_graph

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module", autouse=True)
def found_as_by_a_script():
    """Parts of an example lie beside it, where Python looks when it runs a script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield


@pytest.fixture(scope="module")
def digits(example):
    return example("spectral_graph_digits")


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """A short run of 64-12-12-10: the network, its log, the test images."""
    log_dir = tmp_path_factory.mktemp("digits")
    model = digits.record(log_dir, (12, 12), steps=300, seed=0)
    return model, svdhooks.RunLog(log_dir), digits.split_digits(0)[1]


@pytest.fixture(scope="module")
def kernels(example):
    return example("batch_norm_kernels")


@pytest.fixture(scope="module")
def tiny(kernels):
    return kernels.Setting(widths=(4, 8, 8), steps=40, lr=0.01, weight_decay=1.0)


def right_of(model, images):
    return (model(images.x).argmax(1) == images.y).double().mean().item()


def cut_weights(model, bases):
    """The live network with each weight W replaced by W P, P onto the given inputs."""
    copy = nn.Sequential(*model)
    state = {name: p.clone() for name, p in model.named_parameters()}
    for name, basis in zip(state, bases, strict=True):
        state[name] = state[name] @ basis @ basis.T
    other = type(copy)(*(nn.Linear(1, 1) if p else nn.ReLU() for p in (1, 0, 1, 0, 1)))
    for layer, weight in zip(other[::2], state.values(), strict=True):
        layer.weight, layer.bias = nn.Parameter(weight), None
    return other


# --- digits ---------------------------------------------------------------------------


def test_the_log_alone_classifies_as_the_network_does(digits, trained):
    model, log, test = trained
    assert digits.Factors.of(log).accuracy(test) == pytest.approx(right_of(model, test))
    # and not because anything does
    assert digits.Factors.of(log).accuracy(test) > 0.5
    assert digits.Factors.of(log, 0).accuracy(test) < 0.3


def test_the_block_of_the_log_is_the_network_with_truncated_weights(digits, trained):
    model, log, test = trained
    factors = digits.Factors.of(log)
    found = digits.prune(factors, [6, 5, 4], test, seed=0)
    bases = [
        torch.linalg.svd(weight.detach()).Vh[:size].T
        for weight, size in zip(model.parameters(), [6, 5, 4], strict=True)
    ]
    truncated = cut_weights(model, bases)
    assert found["block"] == pytest.approx(right_of(truncated, test), abs=1 / 360)
    leading = digits.leading_only(factors, test)
    assert leading[-1] == factors.accuracy(test)
    assert found["random_neurons"] < found["block"]


def test_dimensions_are_those_of_the_live_weights(digits, trained):
    model, log, test = trained
    last = digits.read_dimensions(log, test)[-2:]
    for line, (earlier, later) in zip(
        last, pairwise(w.detach().double() for w in model.parameters()), strict=True
    ):
        U = torch.linalg.svd(earlier, full_matrices=False).U
        Vh = torch.linalg.svd(later, full_matrices=False).Vh
        A = (Vh @ U).square().numpy()
        excess = {
            (i, j): A[:i, :j].sum() - i * j / 12
            for i in range(1, A.shape[0] + 1)
            for j in range(1, 13)
        }
        assert (line["d_out"], line["d_in"]) == max(excess, key=excess.get)
        assert line["top_edge"] == pytest.approx(A.max(), rel=1e-4)
        assert log.series(line["pair"], "edges_top")[1][-1] == pytest.approx(
            A.max(), rel=1e-4
        )
        assert line["step"] == 300


def test_neurons_of_the_block_are_in_all_blocks_of_their_layer(digits, trained):
    _, log, _ = trained
    graph = spectral_graph(log)
    (out, into), (out2, into2) = (pair.internal_dimensions for pair in graph.pairs)
    sizes = digits.block_sizes(graph, [12, 12, 10])
    assert sizes == [into, min(out, into2), out2]


@pytest.mark.slow
def test_nine_directions_of_forty_are_enough(digits, tmp_path):
    """MATH: the d_out of the second pair is 8 to 10, and 1 % of the accuracy is lost."""
    lines, kept = [], []
    for seed in range(2):
        digits.record(tmp_path / f"{seed}", (40, 40), steps=2000, seed=seed)
        log, test = svdhooks.RunLog(tmp_path / f"{seed}"), digits.split_digits(seed)[1]
        lines += digits.read_dimensions(log, test)
        kept.append(digits.read_pruned(log, test, seed))
    second = pd.DataFrame(lines).query("step == 2000 and pair == 'fc2->fc3'")
    assert second.d_out.between(8, 10).all()
    for line in kept:
        assert line["block"] > line["whole"] - 0.03
        for control in ("outside", "random_neurons", "random_directions"):
            assert line[control] < 0.5


@pytest.mark.slow
def test_a_run_of_digits_leaves_tables_and_figures(digits, tmp_path, capsys):
    digits.main([
        "--steps",
        "20",
        "--width",
        "5",
        "--seeds",
        "1",
        "--out",
        str(tmp_path),
    ])
    assert "5-5" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "pruned.csv")) == 2
    dimensions = pd.read_csv(tmp_path / "dimensions.csv")
    assert set(dimensions.step) == {0, 10, 20}
    for name in ("dimensions", "adjacency", "layer_graph"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


# --- near-kernels ---------------------------------------------------------------------


def two_kernels(silent, size=1e-4):
    """Random kernels of 10 channels between them, of which some are hardly used."""
    generator = torch.Generator().manual_seed(0)
    earlier = torch.randn(10, 4, 3, 3, generator=generator)
    later = torch.randn(6, 10, 3, 3, generator=generator)
    used = torch.ones(10)
    used[silent] = size * torch.rand(len(silent), generator=generator)
    return earlier * used[:, None, None, None], later * used[:, None, None]


def test_channels_that_nobody_uses_make_two_blocks(kernels):
    earlier, later = two_kernels([2, 5, 7])
    joint = kernels.Joint.of(earlier, later)
    assert joint.cut == (7, 7)
    assert joint.leak == pytest.approx(0, abs=1e-6)
    assert joint.purity == pytest.approx(1, abs=1e-6)
    silent = np.isin(np.arange(10), [2, 5, 7])
    assert joint.silent_share(silent) == pytest.approx(1, abs=1e-6)
    assert joint.silent_share(~silent) == pytest.approx(0, abs=1e-6)
    assert kernels.Joint.of(earlier, kernels.shuffled(later)).leak > 0.3


def test_leak_is_one_by_chance(kernels):
    earlier, later = two_kernels([2, 5, 7])
    turns = [
        np.linalg.qr(np.random.default_rng(i).standard_normal((10, 10)))[0]
        for i in range(300)
    ]
    leaks = [
        kernels.Joint.of(
            earlier, torch.einsum("ab,obkl->oakl", torch.tensor(turn), later.double())
        ).leak
        for turn in turns
    ]
    error = np.std(leaks) / np.sqrt(len(leaks))
    assert abs(np.mean(leaks) - 1) < 4 * error


def test_the_rotation_changes_nothing_but_rounding(kernels):
    earlier, later = two_kernels([1])
    first, second = (kernels.Joint.of(earlier, later, seed=seed) for seed in (0, 1))
    np.testing.assert_allclose(first.kernel, second.kernel, atol=1e-6)
    np.testing.assert_allclose(np.abs(first.U), np.abs(second.U), atol=1e-6)
    plain = torch.linalg.svd(earlier.double().flatten(1))
    np.testing.assert_allclose(np.abs(first.U), plain.U.abs(), atol=1e-6)
    np.testing.assert_allclose(first.written, plain.S, rtol=1e-6)


def test_without_a_near_kernel_there_is_nothing_to_tell(kernels):
    joint = kernels.Joint.of(*two_kernels([]))
    assert joint.cut == (10, 10)
    assert np.isnan(joint.leak)
    assert np.isnan(joint.purity)
    assert np.isnan(joint.silent_share(np.ones(10, dtype=bool)))


def test_what_no_gradient_reaches_is_what_decay_leaves(
    kernels, tiny, tmp_path, monkeypatch
):
    """A channel that is shut writes nothing, and what reads it gets no gradient either."""
    make_model = kernels.make_model

    def with_a_shut_channel(setting):
        model = make_model(setting)
        with torch.no_grad():
            model.norm2.weight[3], model.norm2.bias[3] = 0.0, -1.0
        return model

    monkeypatch.setattr(kernels, "make_model", with_a_shut_channel)
    before = with_a_shut_channel(tiny)
    after, lines = kernels.run(tiny, tmp_path)
    left = (1 - tiny.lr * tiny.weight_decay) ** tiny.steps
    written, read = after.conv2.weight, after.conv3.weight
    torch.testing.assert_close(written[3], left * before.conv2.weight[3])
    torch.testing.assert_close(read[:, 3], left * before.conv3.weight[:, 3])
    assert not torch.allclose(written[2], left * before.conv2.weight[2], rtol=0.05)
    assert lines[-1]["silent"] >= 1
    course = kernels.lengths(svdhooks.RunLog(tmp_path), "conv2")
    np.testing.assert_allclose(
        course[1][-1], written.detach().flatten(1).norm(dim=1), rtol=1e-5
    )
    shut = np.arange(8) == 3
    left, alone = kernels.shrinkage(course, shut, tiny)
    assert left == pytest.approx(alone, rel=1e-5)
    assert alone == pytest.approx((1 - tiny.lr) ** 10)


def test_a_run_that_diverges_is_a_line_without_pair(kernels, tiny, tmp_path):
    _, (line,) = kernels.run(
        replace(tiny, optimizer="sgd", lr=1e6, norm=False), tmp_path
    )
    assert "pair" not in line
    assert line["lr"] == 1e6


@pytest.mark.parametrize("data", ["digits", "gratings"])
def test_silent_channels_are_those_that_no_image_passes(kernels, tiny, data):
    setting = replace(tiny, data=data)
    model, (images, test) = kernels.make_model(setting), kernels.load_images(setting)
    with torch.no_grad():
        model.norm2.bias[5] = -100.0
    silent = kernels.silent_channels(model, images)
    assert silent["conv2"].tolist() == [i == 5 for i in range(8)]
    assert not silent["conv3"].any()
    classes = 10 if data == "digits" else 20
    assert model(test.x[:2]).shape == (2, classes)
    assert set(images.y.tolist()) == set(range(classes))


@pytest.mark.slow
def test_decay_of_the_norm_and_of_the_kernels_makes_near_kernels(kernels, tmp_path):
    """Decay of the norms silences channels, that of the kernels takes their weights."""
    setting = kernels.Setting(widths=(8, 64, 16), steps=800, lr=0.02)
    found = {}
    for decayed in ("all", "kernels", "norms"):
        _, lines = kernels.run(replace(setting, decayed=decayed), tmp_path / decayed)
        found[decayed] = lines[-1]
    assert found["all"]["not_written"] > 10
    assert found["all"]["leak"] < 0.05 < 0.5 < found["all"]["leak_shuffled"]
    assert found["all"]["kernel_in_silent"] > 0.9
    assert found["norms"]["not_written"] == 0
    # at this learning rate a few channels fall silent without it
    assert found["all"]["not_written"] > 5 * found["kernels"]["not_written"]


@pytest.mark.slow
def test_a_run_of_networks_leaves_a_table_and_a_figure(kernels, tmp_path, capsys):
    kernels.main(["--steps", "2", "--out", str(tmp_path)])
    assert "no batch norm" in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "near_kernels.csv").arm) == set(kernels.ARMS)
    assert (tmp_path / "near_kernels.png").stat().st_size > 10_000
