"""The log's schema: tags, display form, version. Shared by writer and readers.

One run is one directory of event files, ``<log_dir>/svdhooks/``. Each record is one
Event with one Summary; stock scalars go into a second Event where the logger's own
x coordinate differs from the step. Tags:

========================================  ==========================================
``svdhooks/meta``                         JSON: version, layers, configuration;
                                          first record of a file and on change
``svdhooks/record``                       JSON: what is said of this record (status,
                                          method, marks, seconds, overhead)
``svdhooks/weight/<layer>``               float32 ``[k]``, display form of the
                                          singular values
``svdhooks/input/<layer>``, ``…/output``  the same of covariance eigenvalues
``svdhooks_full/<point>/<layer>``         float32 ``[n]``, only where n > k
``svdhooks/measure/<point>_<field>``      float32 ``[layers]`` in the order of
                                          ``meta``; NaN where not measured
``svd_<point>_<field>/<layer>``           stock scalars
``svd_summary/<point>_<field>_<pXX>``     stock scalars: percentiles over layers
``svd_spectrum/<layer>``                  stock histogram: index -> singular value
========================================  ==========================================

Reserved for later versions: ``svdhooks/edges/<pair>``, ``svdhooks/pairs``,
``svdhooks/vectors``, ``svdhooks/moments``, ``svdhooks/local_rank/<layer>``,
``svdhooks/ledger/<layer>``, ``svdhooks/alarm``. Readers skip tags that they do not
know and refuse no version; they say when a log is newer than they are.
"""

from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

VERSION = 1
PLUGIN = "svdhooks"
PLUGIN_FULL = "svdhooks_full"
SUBDIRECTORY = "svdhooks"

META_TAG = "svdhooks/meta"
RECORD_TAG = "svdhooks/record"
MEASURE_PREFIX = "svdhooks/measure/"
POINTS = ("weight", "input", "output")

DISPLAY_POINTS = 256


def spectrum_tag(point: str, layer: str) -> str:
    """Tag of the display form of a spectrum."""
    return f"{PLUGIN}/{point}/{escape(layer)}"


def full_tag(point: str, layer: str) -> str:
    """Tag of the full spectrum, written only when the display form is shorter."""
    return f"{PLUGIN_FULL}/{point}/{escape(layer)}"


def measure_tag(point: str, field: str) -> str:
    """Tag of one scalar measure of all layers."""
    return f"{MEASURE_PREFIX}{point}_{field}"


def escape(layer: str) -> str:
    """A layer name as one tag component: ``/`` would nest, ``%`` would be ambiguous."""
    return quote(layer, safe="") if "/" in layer or "%" in layer else layer


def display_index(n: int, k: int = DISPLAY_POINTS) -> NDArray[np.int64]:
    """0-based indices of the display form of a spectrum of length ``n``.

    All indices if ``n <= k``; else at most ``k``, the leading ones dense and the
    tail log-spaced, both ends included.

    Args:
        n: Length of the full spectrum.
        k: Largest length of the display form.

    Returns:
        Strictly increasing indices.
    """
    if n <= k:
        return np.arange(n)
    # more candidates than k, because neighbours coincide at the dense end
    low, high = k, 64 * k
    while low < high:  # the largest number of candidates with at most k distinct
        middle = (low + high + 1) // 2
        if len(_geometric(n, middle)) <= k:
            low = middle
        else:
            high = middle - 1
    return _geometric(n, low)


def _geometric(n: int, count: int) -> NDArray[np.int64]:
    """Distinct indices among ``count`` geometrically spaced ones in 0 … n - 1."""
    return np.unique(np.rint(np.geomspace(1, n, count)).astype(np.int64)) - 1
