"""The data of a page: arrays are what a browser can read, and none is there twice."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from svdhooks.web.page import DTYPES, PageData

KINDS = ["float32", "float64", "float16", "int64", "int32", "uint8", "uint64", "bool"]


@given(
    st.sampled_from(KINDS).flatmap(
        lambda d: hnp.arrays(d, hnp.array_shapes(min_side=0))
    )
)
def test_an_array_comes_back_in_a_dtype_that_browsers_have(array: np.ndarray) -> None:
    page = PageData()
    reference = page.add(array)
    found = page.array(json.loads(json.dumps(reference)))
    assert found.dtype in DTYPES
    assert found.flags.c_contiguous
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(found, array.astype(found.dtype))
    if array.dtype.kind in "bu" and array.dtype.itemsize == 1:
        assert found.dtype == np.uint8


def test_whole_numbers_beyond_32_bits_become_floating_point() -> None:
    page = PageData()
    assert page.array(page.add(np.array([2**31 - 1]))).dtype == np.int32
    found = page.array(page.add(np.array([0, 2**40])))
    assert found.dtype == np.float32
    assert found.tolist() == [0.0, 2.0**40]


def test_equal_arrays_are_taken_once() -> None:
    page = PageData()
    first = page.add(np.arange(5))
    assert page.add(np.arange(5).astype(np.int32)) == first
    assert page.add(np.arange(5.0)) != first  # of another dtype
    assert page.add(np.arange(5).reshape(5, 1)) != first  # of another shape
    assert len(page.arrays) == 3
    assert page.nbytes == 3 * 20


def test_a_negative_zero_and_nan_stay_what_they_are() -> None:
    page = PageData()
    found = page.array(page.add(np.array([-0.0, np.nan, np.inf])))
    assert np.signbit(found[0])
    assert np.isnan(found[1])
    assert page.add(np.array([0.0, np.nan, np.inf])) != {"$array": 0}


@pytest.mark.usefixtures("as_a_user_calls")
@pytest.mark.parametrize("array", [np.array(["a"]), np.array([1j]), np.array([None])])
def test_what_is_no_real_number_is_refused(array: np.ndarray) -> None:
    with pytest.raises(TypeError, match="expected truth values or real numbers"):
        PageData().add(array)
