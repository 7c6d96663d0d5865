"""Serialised values, against protobuf messages filled field by field."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorboard.compat.proto import summary_pb2
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util import tensor_util

from svdhooks.eventfile.values import (
    Chart,
    histogram,
    layout,
    markdown,
    scalar,
    tensor,
    text,
)
from svdhooks.eventfile.wire import varint

TAGS = st.text(min_size=1, max_size=200)


def parse(entry: bytes) -> Any:
    """The one value of a Summary of one entry."""
    (value,) = summary_pb2.Summary.FromString(entry).value
    return value


def metadata(plugin: str, data_class: int, content: str = "") -> Any:
    return summary_pb2.SummaryMetadata(
        plugin_data={"plugin_name": plugin, "content": content.encode()},
        data_class=data_class,
    )


@given(TAGS, st.floats(width=32))
def test_a_scalar_is_a_simple_value_with_metadata(tag: str, x: float) -> None:
    value = parse(scalar(tag, x))
    expected = summary_pb2.Summary.Value(
        tag=tag,
        simple_value=x,
        metadata=metadata("scalars", summary_pb2.DATA_CLASS_SCALAR),
    )
    assert value.SerializeToString(deterministic=True) == expected.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize(("x", "read"), [(1e39, math.inf), (-1e39, -math.inf)])
def test_a_scalar_beyond_float32_is_infinite(x: float, read: float) -> None:
    assert parse(scalar("a", x)).simple_value == read


@given(
    TAGS,
    hnp.arrays(
        st.sampled_from(["<f4", "<f8", "<i4", "<i8", ">f4", ">i8"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    ),
    st.text(max_size=300),
)
def test_an_array_comes_back_bit_for_bit(
    tag: str, array: np.ndarray, content: str
) -> None:
    value = parse(tensor(tag, array, content=content))
    read = tensor_util.make_ndarray(value.tensor)
    assert value.tag == tag
    assert read.shape == array.shape
    little = array.astype(array.dtype.newbyteorder("<"))
    assert read.tobytes() == little.tobytes()
    assert value.metadata == metadata("svdhooks", 2, content)


def test_a_strided_array_is_written_in_its_order() -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)[::-2, ::3].T
    assert np.array_equal(
        tensor_util.make_ndarray(parse(tensor("t", array)).tensor), array
    )


def test_the_full_spectra_have_no_data_class() -> None:
    value = parse(tensor("t", np.zeros(3), plugin="svdhooks_full"))
    assert value.metadata == metadata("svdhooks_full", summary_pb2.DATA_CLASS_UNKNOWN)


@pytest.mark.parametrize("dtype", ["float16", "uint8", "complex64", "bool", "U3"])
def test_a_dtype_that_tensorboard_cannot_read_is_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match=r"'t': found dtype .*float32, float64"):
        tensor("t", np.zeros(3).astype(dtype))


@given(TAGS, st.text(max_size=500))
def test_a_text_is_a_string_tensor(tag: str, string: str) -> None:
    value = parse(text(tag, string, content="c"))
    assert tensor_util.make_ndarray(value.tensor).item() == string.encode()
    assert value.metadata == metadata("svdhooks", 2, "c")
    assert parse(markdown(tag, string)).metadata == metadata("text", 2)


def test_a_layout_is_what_the_custom_scalars_dashboard_reads() -> None:
    lines, band = Chart("l", lines=("a.*", "b")), Chart("b", band=("m", "low", "high"))
    value = parse(layout({"one": [lines, band], "two": []}))
    read = layout_pb2.Layout.FromString(tensor_util.make_ndarray(value.tensor).item())
    assert value.tag == "custom_scalars__config__"
    assert [c.title for c in read.category] == ["one", "two"]
    series = {"value": "m", "lower": "low", "upper": "high"}
    assert list(read.category[0].chart) == [
        layout_pb2.Chart(title="l", multiline={"tag": ["a.*", "b"]}),
        layout_pb2.Chart(title="b", margin={"series": [series]}),
    ]


@pytest.mark.parametrize("n", [1, 2, 63, 64])
def test_a_short_curve_has_one_bar_per_entry(n: int) -> None:
    heights = np.linspace(3, 1, n)
    histo = parse(histogram("h", heights)).histo
    np.testing.assert_allclose(histo.bucket, heights, rtol=1e-12)
    np.testing.assert_allclose(histo.bucket_limit, np.arange(1, n + 1))


@pytest.mark.parametrize("n", [65, 100, 128, 1000])
def test_a_bar_is_the_mean_of_its_entries(n: int) -> None:
    heights = np.random.default_rng(n).random(n)
    histo = parse(histogram("h", heights)).histo
    assert len(histo.bucket) == 64
    widths = np.diff([0.0, *histo.bucket_limit])
    np.testing.assert_allclose(widths, n / 64)
    # second road: each entry shared out over the bars that it overlaps
    expected = [
        sum(
            h * max(0.0, min(i + 1, right) - max(i, right - n / 64))
            for i, h in enumerate(heights)
        )
        / (n / 64)
        for right in histo.bucket_limit
    ]
    np.testing.assert_allclose(histo.bucket, expected, rtol=1e-9)


@given(hnp.arrays(np.float32, st.integers(0, 200)))
def test_a_histogram_never_holds_a_nan(heights: np.ndarray) -> None:
    histo = parse(histogram("h", np.abs(heights))).histo
    numbers = [histo.min, histo.max, histo.num, histo.sum, histo.sum_squares]
    assert np.isfinite([*numbers, *histo.bucket, *histo.bucket_limit]).all()
    assert len(histo.bucket) == len(histo.bucket_limit) == min(len(heights), 64)


def test_a_histogram_carries_its_metadata() -> None:
    assert parse(histogram("h", np.ones(3))).metadata == metadata("histograms", 2)


@given(st.integers(0, 2**63 - 1))
def test_a_varint_is_protobufs(number: int) -> None:
    assert Event.FromString(b"\x10" + varint(number)).step == number
