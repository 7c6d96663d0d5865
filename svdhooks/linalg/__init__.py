"""Mathematics of spectra, usable on its own: arrays in, arrays out.

Knows no module, hook, process or file. Names are resolved on first use, so that the
rank functions, which read logs too, do not load torch.
"""

from svdhooks._lazy import lazy_names

_TABLE = {
    "CovarianceAccumulator": "svdhooks.linalg.accumulator",
    "MEASURES": "svdhooks.linalg._measures",
    "Moments": "svdhooks.linalg.moments",
    "condition_number": "svdhooks.linalg.ranks",
    "effective_rank": "svdhooks.linalg.ranks",
    "eigenvalues": "svdhooks.linalg.spectrum",
    "frobenius_norm": "svdhooks.linalg.ranks",
    "gram": "svdhooks.linalg.spectrum",
    "measures": "svdhooks.linalg._measures",
    "method_for": "svdhooks.linalg.spectrum",
    "noise_floor": "svdhooks.linalg.noise",
    "numerical_rank": "svdhooks.linalg.ranks",
    "participation_ratio": "svdhooks.linalg.ranks",
    "ranks": "svdhooks.linalg.ranks",
    "singular_values": "svdhooks.linalg.spectrum",
    "spectral_entropy": "svdhooks.linalg.ranks",
    "spectral_norm": "svdhooks.linalg.ranks",
    "spectrum_of_gram": "svdhooks.linalg.spectrum",
    "stable_rank": "svdhooks.linalg.ranks",
    "variance_effective_rank": "svdhooks.linalg.ranks",
}

__all__ = [*_TABLE]

__getattr__, __dir__ = lazy_names(__name__, _TABLE)
