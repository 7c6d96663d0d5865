"""A problem solved elsewhere gives the bits of the answer given at once."""

import sys
import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from svdhooks.linalg import CovarianceAccumulator, _solvers, problems, spectrum
from svdhooks.linalg.problems import Eigenvalues, Question, SingularValues, seconds_for


def _bits(x: np.ndarray) -> tuple[object, ...]:
    return x.dtype, x.shape, np.ascontiguousarray(x).tobytes()


def _later(question: Question) -> np.ndarray:
    problem = question.later()
    assert problem is not None
    found = []
    thread = threading.Thread(target=lambda: found.append(problem.solve()))
    thread.start()
    thread.join()
    return found[0]


MATRICES = {
    "square": lambda: torch.randn(40, 40),
    "wide": lambda: torch.randn(30, 70),
    "tall": lambda: torch.randn(200, 30),
    "transposed": lambda: torch.randn(30, 70).mT,
    "rows of a fused weight": lambda: torch.randn(96, 32)[32:64],
    "columns of a weight": lambda: torch.randn(32, 96)[:, 10:50],
    "strided": lambda: torch.randn(60, 60)[::2, ::3],
    "kernel": lambda: torch.randn(16, 8, 3, 3).flatten(1),
    "channels last": lambda: (
        torch.randn(16, 8, 3, 3).to(memory_format=torch.channels_last).flatten(1)
    ),
    "experts": lambda: torch.randn(5, 20, 33),
    "heads by columns": lambda: torch.stack(torch.randn(24, 24).tensor_split(4, -1)),
    "zero": lambda: torch.zeros(20, 30),
    "rank one": lambda: torch.outer(torch.randn(20), torch.randn(30)),
    "one": lambda: torch.randn(1, 1),
    "row": lambda: torch.randn(1, 20),
    "huge": lambda: torch.randn(20, 30) * 1e38,
    "denormal": lambda: torch.randn(20, 30) * 1e-41,
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64]
)
def test_singular_values_are_the_same_bit_for_bit(name, dtype):
    question = SingularValues(MATRICES[name]().to(dtype))
    assert _bits(_later(question)) == _bits(question.now())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrices_with_nan_are_nan_and_their_neighbours_are_not(bad, dtype, capfd):
    """Hazard 37: LAPACK is not given what it would print about."""
    A = torch.randn(4, 12, 9, dtype=dtype)
    A[2, 3, 4] = bad
    question = SingularValues(A)
    found = _later(question)
    assert _bits(found) == _bits(question.now())
    assert np.isnan(found).all(-1).tolist() == [False, False, True, False]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shape", [(700, 30), (30, 700), (3, 90, 40), (7, 20, 20)])
def test_blocks_of_rows_are_summed_in_the_same_order(shape, monkeypatch):
    monkeypatch.setattr(_solvers, "COPY_BYTES", 16 * 30 * 64)
    question = SingularValues(torch.randn(*shape))
    assert _bits(_later(question)) == _bits(question.now())


@pytest.mark.parametrize("shape", [(700, 30), (30, 700), (50, 50), (3, 90, 40)])
def test_of_a_large_matrix_the_smaller_of_copy_and_gram_is_kept(shape, monkeypatch):
    monkeypatch.setattr(problems, "_LARGE_COPY", 0)
    question = SingularValues(torch.randn(*shape))
    problem = question.later()
    assert problem is not None
    copied, side = 4 * int(np.prod(shape)), min(shape[-2:])
    formed = 8 * side**2 * int(np.prod(shape[:-2]))
    assert problem.nbytes == question.nbytes == min(copied, formed)
    assert _bits(problem.solve()) == _bits(question.now())


@pytest.mark.parametrize("samples", [1, 5, 20, 21, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eigenvalues_of_covariances_are_the_same_bit_for_bit(samples, dtype):
    x = torch.randn(samples, 20, dtype=dtype) + 3
    accumulator = CovarianceAccumulator(20).update(x[: samples // 2]).update(x)
    question = Eigenvalues(accumulator.matrix())
    expected = accumulator.eigenvalues().numpy()
    assert _bits(_later(question)) == _bits(question.now()) == _bits(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_snapshot_shares_no_memory_with_the_weight(dtype):
    """Hazard 36."""
    weight = torch.randn(30, 20).to(dtype)
    question = SingularValues(weight)
    before, problem = question.now(), question.later()
    weight.mul_(2)
    assert problem is not None
    assert _bits(problem.solve()) == _bits(before)
    assert problem.nbytes == question.nbytes


def test_what_is_not_copied_is_torn_by_an_update():
    """The companion of the test above: a view of the weight follows the optimiser."""
    weight = torch.randn(30, 20)
    before, view = spectrum.singular_values(weight), weight.numpy()
    weight.mul_(2)
    assert not np.allclose(np.linalg.svd(view, compute_uv=False), before.numpy())


@pytest.mark.parametrize(
    "matrix",
    [
        torch.randn(4, 5, dtype=torch.complex64),
        torch.zeros(0, 5),
        torch.zeros(2, 0, 5),
        torch.randn(2, 3, 4, 5),
    ],
)
def test_what_cannot_wait_is_answered_at_once(matrix: Tensor):
    assert SingularValues(matrix).later() is None
    if matrix.ndim == 2:
        assert Eigenvalues(matrix.mH @ matrix + 0j).later() is None


def test_no_operation_of_torch_runs_while_a_problem_is_solved():
    """Its threads would be one more team of OpenMP; solving is numpy alone."""
    several = [
        SingularValues(torch.randn(300, 400)).later(),
        SingularValues(torch.randn(3, 40, 30)).later(),
        SingularValues(torch.randn(40, 30, dtype=torch.float64)).later(),
        Eigenvalues(torch.eye(300, dtype=torch.float64)).later(),
    ]
    assert _torch_calls(lambda: [problem.solve() for problem in several]) == []
    # the same answers given at once do use torch
    assert _torch_calls(lambda: SingularValues(torch.randn(9, 9)).now())


def _torch_calls(work) -> list[str]:
    """Functions of torch, in Python or C, that are called."""
    called = []

    def watch(frame, event, argument):
        if event != "c_call":
            return
        owner = type(getattr(argument, "__self__", None)).__name__
        if "torch" in str(getattr(argument, "__module__", "")) or "Tensor" in owner:
            called.append(argument.__name__)

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return called


def test_the_estimate_follows_the_measured_table():
    # of linalg/_solvers.py: numpy, n × 2n
    for side, measured in ((256, 2.5e-3), (512, 15e-3), (1024, 109e-3)):
        assert seconds_for(side, 2 * side) == pytest.approx(measured, rel=0.5)
    assert seconds_for(64, 64, many=8) == pytest.approx(8 * seconds_for(64, 64))
