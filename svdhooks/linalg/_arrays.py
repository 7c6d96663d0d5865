"""The little that numpy and torch need to share one arithmetic of spectra.

Does not import torch: the side that reads logs uses the rank functions too.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

Spectrum = Shaped[Any, "*batch n"] | Sequence[float | int]
"""Singular values along the last axis: numpy array, torch tensor or numbers."""

PerSpectrum = Shaped[Any, "*batch"]
"""One number per spectrum: float64, in the library that the spectrum came from."""


def read(sigma: Spectrum) -> tuple[Any, Any]:
    """Prepare a spectrum for arithmetic that is the same in numpy and torch.

    Args:
        sigma: Array, tensor or sequence of numbers.

    Returns:
        The namespace (``numpy`` or ``torch``) and the values in float64. An empty
        spectrum becomes a single zero, which every measure treats alike.

    Raises:
        ValueError: If ``sigma`` is a single number.
        TypeError: If ``sigma`` is complex.
    """
    torch = sys.modules.get("torch")  # not loaded: then there are no tensors
    is_tensor = torch is not None and isinstance(sigma, torch.Tensor)
    xp: Any = torch if is_tensor else np
    values: Any = sigma if is_tensor else np.asarray(sigma)
    if dtype_name(values).startswith("complex"):
        raise TypeError(
            f"Found a spectrum of {dtype_name(values)}, expected real numbers. Pass "
            "what svdhooks.linalg.singular_values returns, not the matrix."
        )
    if values.ndim == 0:
        raise ValueError(
            "Found a single number, expected a spectrum: values along the last axis. "
            "One singular value is a spectrum of shape (1,)."
        )
    if is_tensor:
        values = values.cpu() if values.is_mps else values  # MPS has no float64
        values = values.to(xp.float64)
    else:
        values = values.astype(np.float64, copy=False)
    if values.shape[-1] == 0:
        values = values.sum(axis=-1, keepdims=True)
    return xp, values


def relative(sigma: Spectrum) -> tuple[Any, Any, Any]:
    """Divide a spectrum by its largest value, so that no square over- or underflows.

    Args:
        sigma: Array, tensor or sequence of numbers.

    Returns:
        The namespace, the largest value (one per spectrum) and the relative values.
        Zeros stay zeros; NaN and infinity become NaN.
    """
    xp, values = read(sigma)
    top = xp.amax(values, axis=-1, keepdims=True)
    with np.errstate(all="ignore"):  # torch is silent by itself
        scaled = values / xp.where(top > 0, top, 1.0)
    return xp, top[..., 0], scaled


def dtype_name(dtype: Any) -> str:
    """Name of a dtype that is given as such, by name, or by an array that has it."""
    if not isinstance(dtype, type):  # the class np.float64 has a dtype that is none
        dtype = getattr(dtype, "dtype", dtype)
    if isinstance(dtype, str) or str(dtype).startswith("torch."):
        return str(dtype).removeprefix("torch.")
    return str(np.dtype(dtype).name)
