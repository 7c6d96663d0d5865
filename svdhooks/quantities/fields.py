"""Which measures a quantity records of what, told before the first record."""

from collections.abc import Mapping

from svdhooks import derived, linalg
from svdhooks.layers import Layer
from svdhooks.linalg.light import LIGHT_MEASURES
from svdhooks.quantities.attention import LOGIT_MEASURES, AttentionLogits
from svdhooks.quantities.covariance import Covariance
from svdhooks.quantities.drift import DRIFT_MEASURES, SubspaceDrift
from svdhooks.quantities.expert_load import EXPERT_LOAD_MEASURES, ExpertLoad
from svdhooks.quantities.ledger import Ledger
from svdhooks.quantities.ledger_seen import LEDGER_MEASURES
from svdhooks.quantities.lidar import LIDAR_MEASURES, LiDAR
from svdhooks.quantities.light import Light
from svdhooks.quantities.local_rank import POINT, JacobianSpectrum, measures_of
from svdhooks.quantities.moments import MOMENT_MEASURES, PointMoments
from svdhooks.quantities.protocols import PointQuantity, Quantity
from svdhooks.quantities.spectral_edges import EDGE_MEASURES, SpectralEdges
from svdhooks.quantities.spread import COVARIANCE_MEASURES
from svdhooks.quantities.tokens import TOKEN_MEASURES, TokenRank
from svdhooks.quantities.update import UPDATE_MEASURES, UpdateSpectrum
from svdhooks.quantities.weight_spectrum import ADAPTER_MEASURES, WeightSpectrum

_ENDS = ("", "_min", "_max")


def fields_of(quantity: Quantity, subject: object) -> Mapping[str, tuple[str, ...]]:
    """What a quantity records of one layer, tap or edge.

    Args:
        quantity: The quantity.
        subject: What it is concerned with.

    Returns:
        Point -> names of measures; empty for quantities that are not of this package.
    """
    match quantity:
        case WeightSpectrum() if isinstance(subject, Layer):
            return _of_spectrum(quantity, subject)
        case Light():
            errors = tuple(f"{name}_error" for name in LIGHT_MEASURES)
            return {"weight": (*_each(LIGHT_MEASURES, subject), *errors)}
        case UpdateSpectrum():
            fields = (*_each(linalg.MEASURES, subject), *UPDATE_MEASURES)
            return {"update": fields, "drift": fields}
        case SubspaceDrift() if isinstance(subject, Layer):
            single = not subject.experts and subject.groups == 1
            return {"subspace": DRIFT_MEASURES} if single else {}
        case AttentionLogits():
            return {"attention_logits": LOGIT_MEASURES}
        case SpectralEdges():
            return {"edges": EDGE_MEASURES}
        case ExpertLoad():
            return {"expert_load": EXPERT_LOAD_MEASURES}
        case JacobianSpectrum():
            return {POINT: measures_of(subject)}  # type: ignore[arg-type]  # concerned
        case TokenRank():
            return {"tokens": TOKEN_MEASURES}
        case Covariance():
            return _of_points(quantity, subject, COVARIANCE_MEASURES, quantity.measures)
        case PointMoments():
            points = quantity.measured_points(subject)  # type: ignore[arg-type]  # concerned: it has points
            return {f"{point}_moments": MOMENT_MEASURES for point in points}
        case Ledger():
            return {"ledger": LEDGER_MEASURES}
        case LiDAR():
            return _of_points(quantity, subject, LIDAR_MEASURES)
        case _:
            return {}


def _of_spectrum(
    quantity: WeightSpectrum, layer: Layer
) -> Mapping[str, tuple[str, ...]]:
    adapter = ADAPTER_MEASURES if layer.factors is not None else ()
    whole = (*_each(linalg.MEASURES, layer), *adapter, *quantity.measures)
    if not (quantity.heads and layer.heads):
        return {"weight": whole}
    heads = tuple(f"{name}{end}" for end in _ENDS for name in linalg.MEASURES)
    return {"weight": whole, "heads": heads}


def _of_points(
    quantity: PointQuantity,
    subject: object,
    fields: tuple[str, ...],
    chosen: tuple[str, ...] = (),
) -> Mapping[str, tuple[str, ...]]:
    measured = quantity.measured_points(subject)  # type: ignore[arg-type]  # concerned: it has points
    return {
        point: (*fields, *(f for f in chosen if derived.applicable(f, point)))
        for point in measured
    }


def _each(fields: tuple[str, ...], subject: object) -> tuple[str, ...]:
    """The measures of one matrix, or of the middle and the extremes of many."""
    many = isinstance(subject, Layer) and subject.experts
    return tuple(
        f"{name}{end}" for end in (_ENDS if many else ("",)) for name in fields
    )
