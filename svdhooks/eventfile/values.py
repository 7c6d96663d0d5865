"""The values of a Summary, serialised: scalars, tensors, text, histograms.

Each function returns one entry of ``Summary.value`` as bytes. Everything in front of
the numbers (tag, metadata, shape, lengths) is the same at every step, so it is
serialised once and kept; protobuf allows messages to be concatenated from parts.

Every value carries its metadata: only the first Event of a tag sets it, and that one
may be lost.
"""

import functools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto import summary_pb2, types_pb2
from tensorboard.plugins.custom_scalar import layout_pb2

from svdhooks.eventfile.wire import delimited, varint
from svdhooks.schema import PLUGIN, PLUGIN_FULL

LAYOUT_TAG = "custom_scalars__config__"
HISTOGRAM_BUCKETS = 64

_ENTRY = b"\x0a"  # Summary.value
_SIMPLE_VALUE = b"\x15"  # Value.simple_value
_HISTOGRAM = b"\x2a"  # Value.histo
_TENSOR = b"\x42"  # Value.tensor
_DTYPE = b"\x08"  # TensorProto.dtype
_SHAPE = b"\x12"  # TensorProto.tensor_shape
_CONTENT = b"\x22"  # TensorProto.tensor_content
_STRINGS = b"\x42"  # TensorProto.string_val
_DIMENSION = b"\x12"  # TensorShapeProto.dim
_SIZE = b"\x08"  # TensorShapeProto.Dim.size

# float16, bfloat16 and uint8 can be written but TensorBoard cannot read them back
_DTYPES = {
    "<f4": types_pb2.DT_FLOAT,
    "<f8": types_pb2.DT_DOUBLE,
    "<i4": types_pb2.DT_INT32,
    "<i8": types_pb2.DT_INT64,
}
_CACHED_TAGS = 2**16
_float32 = struct.Struct("<f")


def scalar(tag: str, value: float) -> bytes:
    """A number for the Scalars dashboard, kept as float32.

    Args:
        tag: Its name.
        value: The number; NaN and infinities are allowed.

    Returns:
        A serialised value.
    """
    try:
        packed = _float32.pack(value)
    except OverflowError:  # beyond float32: infinite, as a cast would make it
        packed = _float32.pack(np.copysign(np.inf, value))
    return _scalar_prefix(tag) + packed


def tensor(
    tag: str, array: NDArray[np.generic], *, plugin: str = PLUGIN, content: str = ""
) -> bytes:
    """An array for a plugin of ours, bit for bit.

    Args:
        tag: Its name.
        array: Of dtype float32, float64, int32 or int64.
        plugin: Whose it is. Under ``svdhooks_full`` the data class stays unset, so
            that TensorBoard keeps none of it in memory.
        content: Constants of the tag, as JSON; the same at every step.

    Returns:
        A serialised value.

    Raises:
        ValueError: If the dtype is another one.
    """
    dtype = array.dtype.str
    if dtype.startswith(">"):
        array = array.astype(array.dtype.newbyteorder("<"))
        dtype = array.dtype.str
    if dtype not in _DTYPES:
        raise ValueError(
            f"Tag {tag!r}: found dtype {array.dtype}, expected float32, float64, int32 "
            "or int64. Convert with .astype(np.float32)."
        )
    prefix = _tensor_prefix(tag, plugin, content, dtype, array.shape)
    return prefix + array.tobytes()


def text(tag: str, value: str, *, plugin: str = PLUGIN, content: str = "") -> bytes:
    """A string, for example JSON, for a plugin of ours.

    Args:
        tag: Its name.
        value: The string.
        plugin: Whose it is.
        content: Constants of the tag.

    Returns:
        A serialised value.
    """
    return _string(tag, value.encode(), plugin, content)


def markdown(tag: str, value: str) -> bytes:
    """A note for the Text dashboard.

    Args:
        tag: Its name; the dashboard's own end in ``/text_summary``.
        value: Markdown.

    Returns:
        A serialised value.
    """
    return _string(tag, value.encode(), "text", "")


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of the Custom Scalars dashboard.

    Attributes:
        title: What stands above it.
        lines: Patterns of the tags that are drawn as lines.
        band: Tags of a line and of the lower and upper end of a band around it.
    """

    title: str
    lines: tuple[str, ...] = ()
    band: tuple[str, str, str] | None = None


def layout(categories: Mapping[str, Sequence[Chart]]) -> bytes:
    """A layout of the Custom Scalars dashboard.

    Args:
        categories: Title -> charts.

    Returns:
        A serialised value.
    """
    message = layout_pb2.Layout(
        category=[
            layout_pb2.Category(title=title, chart=map(_chart, charts))
            for title, charts in categories.items()
        ]
    )
    return _string(LAYOUT_TAG, message.SerializeToString(), "custom_scalars", "")


def _chart(chart: Chart) -> layout_pb2.Chart:
    """TensorBoard's message for a chart."""
    if chart.band is None:
        lines = layout_pb2.MultilineChartContent(tag=chart.lines)
        return layout_pb2.Chart(title=chart.title, multiline=lines)
    value, lower, upper = chart.band
    band = layout_pb2.MarginChartContent.Series(value=value, lower=lower, upper=upper)
    margin = layout_pb2.MarginChartContent(series=[band])
    return layout_pb2.Chart(title=chart.title, margin=margin)


def histogram(tag: str, heights: NDArray[np.floating]) -> bytes:
    """A curve drawn as a histogram: index -> height, in at most 64 bars.

    The bars have equal widths, because the chart bins again. A bar is as high as the
    mean of its entries; entries that are not finite count as zero, since one NaN
    spoils the whole chart.

    Args:
        tag: Its name.
        heights: Not negative, for example a spectrum.

    Returns:
        A serialised value.
    """
    n = len(heights)
    finite = np.where(np.isfinite(heights), heights, 0.0).astype(np.float64)
    count = min(n, HISTOGRAM_BUCKETS)
    edges = np.linspace(0.0, n, count + 1)
    # the cumulative sum, read between entries: a bar may end inside an entry
    cumulative = np.interp(edges, np.arange(n + 1), np.cumsum([0.0, *finite]))
    bars = np.diff(cumulative) / (n / max(count, 1) or 1.0)
    centres = (edges[:-1] + edges[1:]) / 2
    message = summary_pb2.HistogramProto(
        min=0.0,
        max=float(n),
        num=float(bars.sum()),
        sum=float(bars @ centres),
        sum_squares=float(bars @ centres**2),
        bucket_limit=edges[1:].tolist(),
        bucket=bars.tolist(),
    )
    body = delimited(_HISTOGRAM, message.SerializeToString())
    return delimited(_ENTRY, _head(tag, "histograms", "") + body)


def _string(tag: str, value: bytes, plugin: str, content: str) -> bytes:
    """A tensor of no dimensions that holds one string."""
    body = b"".join((
        _DTYPE,
        varint(types_pb2.DT_STRING),
        delimited(_SHAPE, b""),
        delimited(_STRINGS, value),
    ))
    return delimited(_ENTRY, _head(tag, plugin, content) + delimited(_TENSOR, body))


_DATA_CLASS = {
    "scalars": summary_pb2.DATA_CLASS_SCALAR,
    PLUGIN_FULL: summary_pb2.DATA_CLASS_UNKNOWN,
}


@functools.lru_cache(maxsize=_CACHED_TAGS)
def _head(tag: str, plugin: str, content: str) -> bytes:
    """Tag and metadata."""
    metadata = summary_pb2.SummaryMetadata(
        plugin_data=summary_pb2.SummaryMetadata.PluginData(
            plugin_name=plugin, content=content.encode()
        ),
        data_class=_DATA_CLASS.get(plugin, summary_pb2.DATA_CLASS_TENSOR),
    )
    value = summary_pb2.Summary.Value(tag=tag, metadata=metadata)
    serialised: bytes = value.SerializeToString()
    return serialised


@functools.lru_cache(maxsize=_CACHED_TAGS)
def _scalar_prefix(tag: str) -> bytes:
    """Everything in front of the four bytes of a scalar."""
    head = _head(tag, "scalars", "") + _SIMPLE_VALUE
    return _ENTRY + varint(len(head) + 4) + head


@functools.lru_cache(maxsize=_CACHED_TAGS)
def _tensor_prefix(
    tag: str, plugin: str, content: str, dtype: str, shape: tuple[int, ...]
) -> bytes:
    """Everything in front of the numbers of a tensor."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    dimensions = b"".join(delimited(_DIMENSION, _SIZE + varint(d)) for d in shape)
    before = b"".join((
        _DTYPE,
        varint(_DTYPES[dtype]),
        delimited(_SHAPE, dimensions),
        _CONTENT,
        varint(size),
    ))
    head = b"".join((
        _head(tag, plugin, content),
        _TENSOR,
        varint(len(before) + size),
        before,
    ))
    return _ENTRY + varint(len(head) + size) + head
