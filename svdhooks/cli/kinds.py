"""Words that options take."""

from enum import StrEnum


class Format(StrEnum):
    """Of an exported file."""

    CSV = "csv"
    PARQUET = "parquet"
    NPZ = "npz"


class What(StrEnum):
    """What is exported."""

    MEASURES = "measures"
    SPECTRA = "spectra"
    ALL = "all"


class Align(StrEnum):
    """Where runs are compared."""

    STEP = "step"
    EPOCH = "epoch"
    LOSS = "loss"


class Which(StrEnum):
    """The demos."""

    SIMSIAM = "simsiam"
    PLASTICITY = "plasticity"
    ATTENTION = "attention"
