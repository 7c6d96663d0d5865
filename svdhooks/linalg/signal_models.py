"""Singular vectors read as signals: their signs, and fits of families of functions.

Networks that estimate parameters of noisy signals appear to keep the signal model in their
singular vectors (Sule, Spencer & Czaja, arXiv 2301.07820): those of a relaxometry network
follow two exponentials. How well they do is the R² of a fit, beside that of random vectors,
which five parameters fit a little, too.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Shaped
from numpy.typing import NDArray

from svdhooks.linalg import _exponentials

Array = NDArray[np.float64]
Numbers = NDArray[Any] | torch.Tensor | Sequence[Any]
Model = str | Callable[..., Any]
"""``"biexponential"``, or a function of the times and one argument per parameter."""


def oriented(vectors: Shaped[Any, "n k"]) -> Shaped[Any, "n k"]:
    """Columns with the sign that makes their largest entry positive.

    Args:
        vectors: Columns, such as singular vectors; tensor or array, real or complex.
            Of a complex column the phase is turned until that entry is real.

    Returns:
        The columns, of the same kind.
    """
    if not isinstance(vectors, torch.Tensor):
        turned: Array = oriented(torch.from_numpy(np.array(vectors))).numpy()
        return turned
    if 0 in vectors.shape:
        return vectors
    size = vectors.abs()
    # of entries that differ by rounding only, the first one decides, on every machine
    largest = size >= (1 - 1e-6) * size.amax(0)
    first = largest.to(torch.uint8).argmax(0, keepdim=True)
    sign = vectors.gather(0, first).sgn()
    return vectors * torch.where(sign == 0, torch.ones_like(sign), sign).conj()


@dataclass(frozen=True, eq=False)
class SignalModelFit:
    """The best fit of a family of functions to a vector.

    Attributes:
        parameters: In the order of the model's arguments; NaN if the fit failed.
        fitted: The model at the given times; NaN if the fit failed.
        r_squared: ``1 - Σ(v - f)²/Σ(v - v̄)²``; NaN for constant values, and if the fit
            failed.
        names: Of the parameters.
        status: ``"ok"``, or what went wrong.
    """

    parameters: Float64[np.ndarray, " p"]
    fitted: Float64[np.ndarray, " n"]
    r_squared: float
    names: tuple[str, ...]
    status: str = "ok"


def biexponential(
    times: Numbers, C1: float, T1: float, C2: float, T2: float, D: float
) -> Any:
    """``C1 exp(-t/T1) - C2 exp(-t/T2) + D``.

    Args:
        times: t.
        C1: Amplitude of the first, slower part.
        T1: Its decay time, in the units of the times.
        C2: Amplitude of the second part, which is taken off.
        T2: Its decay time.
        D: What stays.

    Returns:
        One value per time.
    """
    t = np.asarray(times, dtype=np.float64)
    return C1 * np.exp(-t / T1) - C2 * np.exp(-t / T2) + D


def fit_signal_model(
    times: Numbers,
    values: Numbers,
    model: Model = "biexponential",
    *,
    starts: Numbers | None = None,
    bounds: tuple[Numbers, Numbers] | None = None,
) -> SignalModelFit:
    """Fit a family of functions to a vector by least squares.

    The biexponential is fitted without starts: for given decay times the amplitudes are a
    linear problem, so only the two times are searched, on a grid and then downhill
    (variable projection, Golub & Pereyra 1973). ``T1 ≥ T2``, both positive; their geometric
    mean lies between a quarter of the closest spacing and a hundred times the range. Any
    other family goes downhill from every start.

    Args:
        times: ``(n,)``, for example sampling times of the network's input.
        values: ``(n,)``, for example entries of a singular vector.
        model: ``"biexponential"``, or a function of the times and of one argument per
            parameter, which returns one value per time.
        starts: Of a family of your own: where to begin, ``(p,)`` or ``(starts, p)``; the
            best outcome counts. With the biexponential they are tried besides its own.
        bounds: Lower and upper bounds, ``(p,)`` each; None: none, but positive decay times
            for the biexponential.

    Returns:
        The best fit. A fit that fails is one of NaN, with a status; it does not raise.

    Raises:
        ValueError: If times and values are not two vectors of one length, if there is no
            such model, if it has no starts or other parameters than they, or if the model
            returns another number of values.
        TypeError: If the values are complex.
    """
    t, v = _vector(times, "times"), _vector(values, "values")
    if len(t) != len(v):
        raise ValueError(
            f"Found {len(t)} times and {len(v)} values, expected as many of each."
        )
    function = _function(model)
    names = tuple(inspect.signature(function).parameters)[1:]
    begun, limits = _starts(starts, names), _bounds(bounds, names)
    ready = function is biexponential
    if not begun and not ready:
        raise ValueError(
            f"Found no starts for the parameters {', '.join(names)}, expected "
            "starts=[(…), …], one number per parameter."
        )
    if not (np.isfinite(t).all() and np.isfinite(v).all()):
        return _failed(v, names, "failed: times or values are not finite")
    if len(np.unique(t)) < len(names):
        status = f"failed: {len(names)} parameters of {len(np.unique(t))} times"
        return _failed(v, names, status)
    if ready:
        own = _exponentials.fit(t, v)
        if bounds is None and not begun:
            return _finished(v, own.parameters, own.fitted, names)
        begun = [own.parameters, *begun]
        if bounds is None:
            limits[0][[1, 3]] = _exponentials.decay_times(t)[0]
    return _downhill(function, (t, v), begun, limits, names)


def _downhill(
    function: Callable[..., Any],
    data: tuple[Array, Array],
    starts: list[Array],
    limits: tuple[Array, Array],
    names: tuple[str, ...],
) -> SignalModelFit:
    """The best descent from all starts."""
    from scipy.optimize import least_squares

    t, v = data
    scale = float(np.abs(v).max()) or 1.0  # tolerances of the descent are absolute

    def residual(parameters: Array) -> Array:
        return (_called(function, t, parameters) - v) / scale

    best, least = None, np.inf
    for start in starts:
        begun = np.clip(start, *limits)
        if not np.isfinite(
            residual(begun)
        ).all():  # errors of the model itself show here
            continue
        try:
            with np.errstate(all="ignore"):
                found = least_squares(
                    residual, begun, bounds=limits, **_exponentials.TOLERANCES
                )
        except (ValueError, np.linalg.LinAlgError):  # a derivative that is not finite
            continue
        if found.cost < least:
            best, least = found.x, float(found.cost)
    if best is None:
        status = "failed: the model or its slope is not finite at the starts"
        return _failed(v, names, status)
    return _finished(v, best, _called(function, t, best), names)


def _called(function: Callable[..., Any], t: Array, parameters: Array) -> Array:
    """The model at the times."""
    with np.errstate(all="ignore"):  # far from the optimum anything may happen
        values = np.asarray(function(t, *parameters), dtype=np.float64)
    if values.shape not in {(), t.shape}:
        raise ValueError(
            f"Found {values.shape} values of the model, expected {t.shape}, one per time."
        )
    return np.broadcast_to(values, t.shape)


def _finished(
    v: Array, parameters: Array, fitted: Array, names: tuple[str, ...]
) -> SignalModelFit:
    """The fit with its R²."""
    scale = float(np.abs(v).max()) or 1.0  # squares of 1e200 are no numbers
    unit = v / scale
    total = float(np.square(unit - unit.mean()).sum())
    # a constant leaves rounding, of which no share can be explained
    constant = total <= 1e-30 * len(v)
    left = float(np.square(unit - fitted / scale).sum())
    r_squared = float("nan") if constant else 1 - left / total
    return SignalModelFit(parameters, np.array(fitted), r_squared, names)


def _failed(v: Array, names: tuple[str, ...], status: str) -> SignalModelFit:
    nan = float("nan")
    return SignalModelFit(
        np.full(len(names), nan), np.full(len(v), nan), nan, names, status
    )


def _function(model: Model) -> Callable[..., Any]:
    """The family of functions of a name, or itself."""
    if not isinstance(model, str):
        return model
    if model != "biexponential":
        raise ValueError(
            f"Found model={model!r}, expected 'biexponential' or a function of the times "
            "and of one argument per parameter."
        )
    return biexponential


def _starts(starts: Any, names: tuple[str, ...]) -> list[Array]:
    """Where to begin, one array per start."""
    if starts is None:
        return []
    rows = np.atleast_2d(np.asarray(starts, dtype=np.float64))
    if rows.ndim != 2 or rows.shape[1] != len(names) or not np.isfinite(rows).all():
        raise ValueError(
            f"Found starts of shape {np.shape(starts)}, expected {len(names)} finite "
            f"numbers each, for {', '.join(names)}."
        )
    return list(rows)


def _bounds(bounds: Any, names: tuple[str, ...]) -> tuple[Array, Array]:
    """Lower and upper bounds, infinite where there are none."""
    if bounds is None:
        return np.full(len(names), -np.inf), np.full(len(names), np.inf)
    low, high = (np.array(side, dtype=np.float64) for side in bounds)
    if not low.shape == high.shape == (len(names),) or not (low < high).all():
        raise ValueError(
            f"Found bounds {bounds}, expected (lower, upper) with {len(names)} numbers "
            f"each, for {', '.join(names)}, every lower one below its upper one."
        )
    return low, high


def _vector(values: Numbers, what: str) -> Array:
    """One axis of real numbers, float64."""
    array = values.detach().cpu() if isinstance(values, torch.Tensor) else values
    array = np.asarray(array)
    if np.iscomplexobj(array):
        raise TypeError(
            f"Found {what} of {array.dtype}, expected real numbers. Fit the real and "
            "the imaginary part on their own."
        )
    if array.ndim != 1:
        raise ValueError(
            f"Found {what} of shape {array.shape}, expected one axis. Fit one singular "
            "vector at a time."
        )
    return array.astype(np.float64)
