"""What is watched of the models of a recorder, and what can be measured of it."""

from collections.abc import Iterator, Sequence
from typing import Any

from svdhooks.conductor.overhead import Part
from svdhooks.conductor.watched import WatchedModel
from svdhooks.layers import Skipped
from svdhooks.layers.tap import Watched
from svdhooks.quantities import Quantity


class Roster:
    """The models, and the layers and taps of them all.

    Args:
        models: The only one, or several with names.
    """

    def __init__(self, models: Sequence[WatchedModel]) -> None:
        self._models = list(models)

    def __iter__(self) -> Iterator[WatchedModel]:
        return iter(self._models)

    @property
    def watched(self) -> tuple[Watched, ...]:
        """All layers and taps, in the order of the models."""
        return tuple(x for model in self for x in model.measurer.watched)

    @property
    def layout(self) -> object:
        """Differs from an earlier one where something else is watched."""
        return [(m.measurer.table, m.measurer.taps) for m in self]

    def describe(
        self, quantities: Sequence[Quantity]
    ) -> tuple[Sequence[Watched], Sequence[Skipped]]:
        """What is watched, and what is not.

        Args:
            quantities: What is measured.

        Returns:
            Layers and taps; modules, parameters and points with the reason.
        """
        skipped = [
            entry
            for model in self
            for entry in (
                *model.measurer.table.skipped,
                *model.measurer.skipped_points(quantities),
            )
        ]
        return self.watched, skipped

    def pairs(self, quantities: Sequence[Quantity]) -> list[dict[str, Any]]:
        """The layers that feed each other, as far as the log has to know.

        Args:
            quantities: What is measured.

        Returns:
            A description of each pair.
        """
        return [
            pair.describe()
            for model in self
            for pair in model.measurer.pairs(quantities)
        ]

    def recorded(
        self, quantities: Sequence[Quantity]
    ) -> dict[str, dict[str, tuple[str, ...]]]:
        """Which measures will be recorded of what.

        Args:
            quantities: What is measured.

        Returns:
            Layer, tap or edge -> point -> names of measures.
        """
        whole: dict[str, dict[str, tuple[str, ...]]] = {}
        for model in self:
            for name, fields in model.measurer.recorded(quantities).items():
                whole.setdefault(name, {}).update(fields)
        return whole

    def idle(self, quantities: Sequence[Quantity]) -> dict[str, str | None]:
        """Which quantities have nothing to measure, as far as that is known, and why.

        Args:
            quantities: What is measured.

        Returns:
            Names -> reason; None: there is no layer of the kind.
        """
        if any(model.measurer.table.incomplete for model in self):
            return {}
        concerned = {name for name, _ in self.parts(quantities, probing=True)}
        for model in self:
            concerned |= {q.name for q in quantities if model.measurer.unknown_yet(q)}
        why_not = self._models[0].measurer.why_not
        return {q.name: why_not(q) for q in quantities if q.name not in concerned}

    def parts(
        self, quantities: Sequence[Quantity], probing: bool | Sequence[bool]
    ) -> list[Part]:
        """What can be measured, quantity by quantity, in the order of the models.

        Args:
            quantities: Those due.
            probing: Whether the points can be observed; for each model, or of all.

        Returns:
            Pairs of quantity name and layer name.
        """
        each = [probing] * len(self._models) if isinstance(probing, bool) else probing
        return [
            part
            for quantity in quantities
            for model, known in zip(self, each, strict=True)
            for part in model.measurer.parts([quantity], known)
        ]
