"""What is measured. Small protocols: one for weights, one for edges, one for points."""

from svdhooks.quantities.attention import AttentionLogits
from svdhooks.quantities.covariance import Covariance
from svdhooks.quantities.expert_load import ExpertLoad
from svdhooks.quantities.ledger import Ledger
from svdhooks.quantities.lidar import LiDAR
from svdhooks.quantities.light import Light
from svdhooks.quantities.local_rank import JacobianSpectrum
from svdhooks.quantities.protocols import (
    EdgeQuantity,
    JacobianQuantity,
    PointObserver,
    PointQuantity,
    Quantity,
    WeightQuantity,
    needs_flow,
    needs_probe,
)
from svdhooks.quantities.resolve import resolve_quantities
from svdhooks.quantities.spectral_edges import SpectralEdges
from svdhooks.quantities.spread import COVARIANCE_MEASURES
from svdhooks.quantities.tokens import TokenRank
from svdhooks.quantities.update import UpdateSpectrum
from svdhooks.quantities.vectors import WeightVectors
from svdhooks.quantities.weight_spectrum import WeightSpectrum

__all__ = [
    "COVARIANCE_MEASURES",
    "AttentionLogits",
    "Covariance",
    "EdgeQuantity",
    "ExpertLoad",
    "JacobianQuantity",
    "JacobianSpectrum",
    "Ledger",
    "LiDAR",
    "Light",
    "PointObserver",
    "PointQuantity",
    "Quantity",
    "SpectralEdges",
    "TokenRank",
    "UpdateSpectrum",
    "WeightQuantity",
    "WeightSpectrum",
    "WeightVectors",
    "needs_flow",
    "needs_probe",
    "resolve_quantities",
]
