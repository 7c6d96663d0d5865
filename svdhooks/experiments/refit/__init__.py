"""Learn U and V again with every S fixed: does the original come back?"""

from svdhooks._lazy import lazy_names

_TABLE = {
    "ARMS": "svdhooks.experiments.refit.networks",
    "RefitResult": "svdhooks.experiments.refit.result",
    "RefitSettings": "svdhooks.experiments.refit.settings",
    "headline_k": "svdhooks.experiments.refit.seed",
    "run_refit": "svdhooks.experiments.refit.protocol",
}

__all__ = [*_TABLE]

__getattr__, __dir__ = lazy_names(__name__, _TABLE)
