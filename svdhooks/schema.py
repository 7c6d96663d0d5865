"""The log's schema: tags, display form, version. Shared by writer and readers.

One run is one directory of event files, ``<log_dir>/svdhooks/``. Each record is one
Event with one Summary; stock scalars go into a second Event where the logger's own
x coordinate differs from the step. Tags:

==========================================  ========================================
``svdhooks/meta``                           JSON: version, layers, configuration,
                                            ``pairs`` of layers that feed each other
                                            (once they are known); in
                                            the first two records of a file and on
                                            change (twice, so that one damaged record
                                            costs no names)
``svdhooks/record``                         JSON: what is said of this record (status,
                                            method, marks, seconds, overhead); see
                                            `svdhooks.runlog.notes`
``svdhooks/<point>/<layer>``                float32 ``[k]``, display form of a spectrum:
                                            singular values (``weight``, ``update`` …),
                                            eigenvalues (``input``, ``output`` …), or the
                                            mean over samples of the singular values
                                            (``jacobian``)
``svdhooks_full/<point>/<layer>``           ``[m]``, the spectrum as measured, only
                                            where the display form does not hold it
``svdhooks/measure/<point>_<field>``        float32 ``[layers]`` in the order of
                                            ``meta``; NaN where not measured
``svdhooks/alarm``                          JSON: list of what was raised at this step, see
                                            `svdhooks.alarms.AlarmEvent`
``svdhooks/contents``                       int32, first in large Events: where each
                                            value is, and its checksum; see
                                            `svdhooks.eventfile.contents`
``svd_<point>_<field>/<layer>``             stock scalars: `HEADLINES`, and `ON_REQUEST`
                                            of the quantities that were asked for
``svd_summary/<point>_<field>_<statistic>`` stock scalars: min, p10, median, p90 over
                                            layers
``svd_summary/overhead``                    stock scalar: share of the training time
``svd_summary/alarms_open``, ``…_raised``   stock scalars, where there are alarms
``svd_alarms/text_summary``                 stock text, Markdown: what was raised
``svd_spectrum/<layer>``                    stock histogram: index -> singular value
==========================================  ========================================

A point is any word; ``/`` and ``%`` in the names of points and layers are escaped, as is
the first letter of a point that is a reserved word (`RESERVED`). The ledger's point is one:
it has measures and no spectrum, so that of it only ``svdhooks/measure/ledger_<field>`` and
stock scalars are written. So it is with ``edges``, whose records are filed under the name
of a pair of layers, ``<layer>-><next layer>``.

The length ``n`` of a spectrum is constant per layer and point, and stands in the
content of its tag (`spectrum_content`). A covariance of few samples has fewer
eigenvalues: the full form holds those, the display form is that of the spectrum padded
with zeros to ``n``.

Arrays other than spectra (``U``, ``Vh`` …) stand beside the event files, in
``vectors-<step>-<session>-<n>.safetensors``: ``step`` has ten digits, ``session`` is
what follows ``tfevents.`` in the name of the event file that was written with it, ``n``
counts the files of a session. Tensors are called ``<point>/<layer>/<field>``; the
metadata ``svdhooks`` is JSON with ``v``, ``step``, ``session``, and ``crc``: tensor ->
CRC-32C of its name, dtype, shape and bytes, and perhaps ``complex``: the tensors whose
last axis is real and imaginary part (which is in their checksums, too). A file counts, or is
superseded, as if its arrays were tags of that session.

The order of sessions is that of the names of the event files: what a later one holds
supersedes what an earlier one holds at or after its start, also if both were written at
the same time.

Reserved for later versions: ``svdhooks/edges/<pair>``, ``svdhooks/pairs``,
``svdhooks/moments``, ``svdhooks/ledger/<layer>``. Readers skip tags that they do not know and refuse no version; they say when a log is newer than they are.
"""

import functools
import json
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

VERSION = 1
PLUGIN = "svdhooks"
PLUGIN_FULL = "svdhooks_full"
SUBDIRECTORY = "svdhooks"

META_TAG = "svdhooks/meta"
OVERHEAD_TAG = "svd_summary/overhead"
RECORD_TAG = "svdhooks/record"
CONTENTS_TAG = "svdhooks/contents"
ALARM_TAG = "svdhooks/alarm"
ALARM_TEXT_TAG = "svd_alarms/text_summary"
MEASURE_PREFIX = "svdhooks/measure/"
POINTS = ("weight", "input", "output")
"""The points of every layer, in the order in which they are listed; there are others."""
RESERVED = frozenset({
    "meta",
    "record",
    "contents",
    "measure",
    "edges",
    "pairs",
    "vectors",
    "moments",
    "ledger",
    "alarm",
})
"""Words that stand for something else where a spectrum's tag has its point."""
HEADLINES = (
    ("weight", "stable_rank"),
    ("weight", "spectral_norm"),
    ("input", "effective_rank"),
    ("output", "effective_rank"),
)
"""Measures with a stock scalar per layer, and their statistics over layers."""
ON_REQUEST: dict[str, tuple[tuple[str, str], ...]] = {
    "token_rank": (("tokens", "effective_rank"),),
    "update_spectrum": (("update", "relative_norm"),),
    "attention_logits": (("attention_logits", "scaled_max"),),
    # the absolute threshold moves with the scale of the weights alone
    "local_rank": (("jacobian", "relative_local_rank"), ("jacobian", "local_rank")),
    "ledger": (
        ("ledger", "input_null_share"),
        ("ledger", "nonlinearity_removed_share"),
    ),
    "spectral_edges": (("edges", "significant_share"), ("edges", "internal_in")),
    "subspace_drift": (
        ("subspace", "left_overlap_start"),
        ("subspace", "right_overlap_start"),
    ),
}
"""The same of quantities that the user asks for by name."""
STOCK = (*HEADLINES, *(asked for several in ON_REQUEST.values() for asked in several))
"""All measures with a stock scalar, where they are recorded."""

DISPLAY_POINTS = 256


def spectrum_tag(point: str, layer: str) -> str:
    """Tag of the display form of a spectrum."""
    return f"{PLUGIN}/{escape_point(point)}/{escape(layer)}"


def full_tag(point: str, layer: str) -> str:
    """Tag of the full spectrum, written only when the display form is shorter."""
    return f"{PLUGIN_FULL}/{escape_point(point)}/{escape(layer)}"


def measure_tag(point: str, field: str) -> str:
    """Tag of one scalar measure of all layers."""
    return f"{MEASURE_PREFIX}{point}_{field}"


def stock_tag(point: str, field: str, layer: str) -> str:
    """Tag of one scalar measure of one layer for the Scalars dashboard."""
    return f"svd_{escape(point)}_{field}/{escape(layer)}"


def summary_tag(point: str, field: str, statistic: str) -> str:
    """Tag of a statistic over layers, for example ``statistic="median"``."""
    return f"svd_summary/{point}_{field}_{statistic}"


def histogram_tag(layer: str) -> str:
    """Tag of a layer's singular values, drawn as a histogram over their index."""
    return f"svd_spectrum/{escape(layer)}"


def vector_name(point: str, layer: str, field: str) -> str:
    """Name of an array in a file of vectors."""
    return f"{escape(point)}/{escape(layer)}/{escape(field)}"


def vector_of(name: str) -> tuple[str, str, str] | None:
    """Point, layer and field from `vector_name`; None if it is none."""
    parts = name.split("/")
    if len(parts) != 3:
        return None
    point, layer, field = map(unquote, parts)
    return point, layer, field


def escape(layer: str) -> str:
    """A layer name as one tag component: ``/`` would nest, ``%`` would be ambiguous."""
    return quote(layer, safe="") if "/" in layer or "%" in layer else layer


def escape_point(point: str) -> str:
    """A point as one tag component that is no reserved word."""
    if point in RESERVED:
        return f"%{ord(point[0]):02X}{point[1:]}"
    return escape(point)


def layer_of(tag: str) -> tuple[str, str] | None:
    """The point and the layer that the tag of a spectrum, either form, speaks of.

    Args:
        tag: Any tag.

    Returns:
        ``(point, layer)``, or None if it is no spectrum's tag.
    """
    owner, _, rest = tag.partition("/")
    point, _, layer = rest.partition("/")
    if owner not in {PLUGIN, PLUGIN_FULL} or point in RESERVED or not layer:
        return None
    return unquote(point), unquote(layer)


@functools.lru_cache(maxsize=65536)
def spectrum_content(layer: str, point: str, n: int, shape: tuple[int, ...]) -> str:
    """What the metadata of a spectrum's tags say, as JSON.

    Args:
        layer: Its name, unescaped.
        point: Which matrix of the layer.
        n: Length of the full spectrum.
        shape: Of the layer's weight; empty for taps.

    Returns:
        JSON: ``v``, ``layer``, ``point``, ``n``, ``k`` (length of the display form),
        ``limit`` (so that ``display_index(n, limit)`` says which entries it has),
        ``shape``.
    """
    content = {
        "v": VERSION,
        "layer": layer,
        "point": point,
        "n": n,
        "k": len(display_index(n)),
        "limit": DISPLAY_POINTS,
        "shape": list(shape),
    }
    return json.dumps(content, separators=(",", ":"))


@functools.lru_cache(maxsize=4096)
def display_index(n: int, k: int = DISPLAY_POINTS) -> NDArray[np.int64]:
    """0-based indices of the display form of a spectrum of length ``n``.

    All indices if ``n <= k``; else at most ``k``, the leading ones dense and the
    tail log-spaced, both ends included.

    Args:
        n: Length of the full spectrum.
        k: Largest length of the display form.

    Returns:
        Strictly increasing indices; shared, so not to be written to.
    """
    index = np.arange(n) if n <= k else _geometric(n, _most_candidates(n, k))
    index.flags.writeable = False
    return index


def _most_candidates(n: int, k: int) -> int:
    """The largest number of candidates of which at most ``k`` are distinct."""
    # more candidates than k, because neighbours coincide at the dense end
    low, high = k, 64 * k
    while low < high:
        middle = (low + high + 1) // 2
        if len(_geometric(n, middle)) <= k:
            low = middle
        else:
            high = middle - 1
    return low


def _geometric(n: int, count: int) -> NDArray[np.int64]:
    """Distinct indices among ``count`` geometrically spaced ones in 0 … n - 1."""
    return np.unique(np.rint(np.geomspace(1, n, count)).astype(np.int64)) - 1
