"""From ``quantities=`` to quantity objects."""

from collections.abc import Callable, Iterable, Sequence

from svdhooks.quantities.attention import AttentionLogits
from svdhooks.quantities.covariance import Covariance
from svdhooks.quantities.drift import SubspaceDrift
from svdhooks.quantities.expert_load import ExpertLoad
from svdhooks.quantities.ledger import Ledger
from svdhooks.quantities.light import Light
from svdhooks.quantities.local_rank import JacobianSpectrum
from svdhooks.quantities.moments import PointMoments
from svdhooks.quantities.protocols import (
    EdgeQuantity,
    JacobianQuantity,
    PointQuantity,
    Quantity,
    WeightQuantity,
)
from svdhooks.quantities.spectral_edges import SpectralEdges
from svdhooks.quantities.tokens import TokenRank
from svdhooks.quantities.update import UpdateSpectrum
from svdhooks.quantities.vectors import WeightVectors
from svdhooks.quantities.weight_spectrum import WeightSpectrum
from svdhooks.schedule import Schedule, check_schedule, sparser

_BY_NAME: dict[str, Callable[[], Quantity]] = {
    "weight_spectrum": WeightSpectrum,
    "covariance": Covariance,
    "ledger": Ledger,
    "light": Light,
    "local_rank": JacobianSpectrum,
    "token_rank": TokenRank,
    "attention_logits": AttentionLogits,
    "expert_load": ExpertLoad,
    "spectral_edges": SpectralEdges,
    "update_spectrum": UpdateSpectrum,
    "weight_vectors": WeightVectors,
    "moments": PointMoments,
    "subspace_drift": SubspaceDrift,
}
DEFAULT = ("weight_spectrum", "covariance")


def resolve_quantities(
    quantities: str | Quantity | Iterable[str | Quantity] | None,
    schedule: Schedule | None = None,
) -> tuple[Quantity, ...]:
    """Turn names and objects into quantities.

    Args:
        quantities: One or several names or objects; None: the default set. ``"light"``
            brings full weight spectra at a sparser cadence, unless these are named too.
        schedule: The recorder's, from which that of rarer quantities follows.

    Returns:
        The quantities, in the given order.

    Raises:
        ValueError: If none is given, a name is unknown or one is given twice.
        TypeError: If an object is no quantity.
    """
    if quantities is None:
        quantities = DEFAULT
    if isinstance(quantities, str) or not isinstance(quantities, Iterable):
        quantities = (quantities,)
    entries = tuple(quantities)
    found = tuple(q for entry in entries for q in _resolve(entry, schedule))
    if "light" in entries and len(found) > len(entries):
        found = _without_second(found)
    if not found:
        raise ValueError(
            f"quantities= is empty; expected some of {sorted(_BY_NAME)}, or None for "
            "the default."
        )
    _refuse_repeated(found)
    return found


def _without_second(found: tuple[Quantity, ...]) -> tuple[Quantity, ...]:
    """Weight spectra as the user wants them, instead of those that "light" brings."""
    spectra = [q for q in found if type(q) is WeightSpectrum]
    if len(spectra) == 1:
        return found
    brought = found[[q.name for q in found].index("light") + 1]
    return tuple(q for q in found if q is not brought)


def _resolve(entry: str | Quantity, schedule: Schedule | None) -> tuple[Quantity, ...]:
    if isinstance(entry, str):
        if entry not in _BY_NAME:
            raise ValueError(
                f"Unknown quantity {entry!r}; this version measures {sorted(_BY_NAME)}."
            )
        quantity = _BY_NAME[entry]()
        # cheap numbers at every record, and the whole spectrum now and then
        rare = WeightSpectrum(sparser(schedule))
        return (quantity, rare) if entry == "light" else (quantity,)
    if isinstance(entry, type) or not isinstance(
        entry, (WeightQuantity, EdgeQuantity, PointQuantity, JacobianQuantity)
    ):
        raise TypeError(
            f"Found {entry!r} in quantities=; expected a name out of "
            f"{sorted(_BY_NAME)} or an object such as svdhooks.Covariance()."
        )
    if entry.schedule is not None:
        check_schedule(entry.schedule)
    return (entry,)


def _refuse_repeated(quantities: Sequence[Quantity]) -> None:
    names = [quantity.name for quantity in quantities]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(
            f"quantities= names {repeated} more than once; give each a single time, "
            "with any_of(...) as its schedule if it has several."
        )
