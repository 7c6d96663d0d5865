"""What each quantity is concerned with, of the layers and taps of one model."""

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import nn

from svdhooks.conductor.differentiating import OfJacobians
from svdhooks.conductor.observing import OfPoints
from svdhooks.conductor.overhead import Part
from svdhooks.flow import Flow
from svdhooks.flow.graph import NOTHING
from svdhooks.layers import LayerTable, Skipped
from svdhooks.layers.pairs import LayerPair
from svdhooks.layers.tap import Tap, Watched
from svdhooks.quantities import (
    EdgeQuantity,
    JacobianQuantity,
    PointQuantity,
    Quantity,
    WeightQuantity,
    WeightVectors,
    needs_flow,
    needs_probe,
)
from svdhooks.quantities.fields import fields_of
from svdhooks.quantities.protocols import Edge
from svdhooks.quantities.spectral_edges import SpectralEdges

Q = TypeVar("Q", bound=Quantity)
NO_PAIRS = (
    "no layer was seen to feed another directly, and svdhooks.layer_pairs(model, batch) "
    "says what was refused and why; where you know it, give SpectralEdges(pairs=[(name, "
    "name), ...])"
)
_TRACED = SpectralEdges()


def untraced(error: str) -> str:
    """What is said where the flow is not known.

    Args:
        error: Why it could not be traced.

    Returns:
        What happened, and what to do.
    """
    return (
        f"the forward works, but not while it is traced ({error}), so which layer feeds "
        "which is not known; give SpectralEdges(pairs=[(name, name), ...])"
    )


class Choices:
    """What there is to measure of one model.

    Args:
        table: What to watch.
        taps: Further points to watch.
        undifferentiable: Why its Jacobians cannot be measured; None if they can.
        model: The plain module.
    """

    def __init__(
        self,
        table: LayerTable,
        taps: Sequence[Tap],
        undifferentiable: str | None,
        model: nn.Module,
    ) -> None:
        self.table = table
        self.taps = tuple(taps)
        self.undifferentiable = undifferentiable
        self.model = model
        # it takes a walk through the flow to find them
        self._found: dict[str, tuple[Flow, Sequence[Edge]]] = {}

    @property
    def flow(self) -> Flow:
        """Which layer feeds which; empty where, or as long as, that is unknown."""
        return NOTHING

    @property
    def watched(self) -> tuple[Watched, ...]:
        """The layers, in the model's order, and the taps."""
        return (*self.table.layers, *self.taps)

    def parts(self, quantities: Sequence[Quantity], probing: bool) -> list[Part]:
        """What can be measured now, in the order of the model.

        Args:
            quantities: Those due.
            probing: Whether the points can be observed.

        Returns:
            Pairs of quantity name and layer name.
        """
        return [
            (quantity.name, subject.name)
            for quantity in quantities
            for subject in self._concerned(quantity, probing)
        ]

    def _concerned(self, quantity: Quantity, probing: bool) -> Sequence[Any]:
        # asked once per quantity: whether a protocol is met takes 15 µs to find out
        if isinstance(quantity, WeightQuantity):
            return [layer for layer in self.table.layers if layer.tied_to is None]
        if isinstance(quantity, EdgeQuantity):
            return self.edges(quantity)
        if isinstance(quantity, JacobianQuantity):
            possible = probing and self.undifferentiable is None
            concerned = [x for x in self.watched if quantity.differentiated(x)]
            return concerned if possible else []
        if not (probing and isinstance(quantity, PointQuantity)):
            return []
        return [layer for layer in self.watched if quantity.measured_points(layer)]

    def edges(self, quantity: EdgeQuantity) -> Sequence[Any]:
        """What a quantity measures between layers, as far as that is known.

        Args:
            quantity: The quantity.

        Returns:
            Its edges.
        """
        flow, found = self._found.get(quantity.name, (None, ()))
        if flow is not self.flow:
            found = quantity.edges(self.table, self.flow, self.model)
            self._found[quantity.name] = self.flow, found
        return found

    def unknown_yet(self, quantity: Quantity) -> bool:
        """Whether what a quantity is concerned with shows in a forward to come."""
        edges = isinstance(quantity, EdgeQuantity)
        return edges and needs_flow(quantity) and not self.flow

    def recorded(
        self, quantities: Sequence[Quantity]
    ) -> dict[str, dict[str, tuple[str, ...]]]:
        """Which measures will be recorded of what, if the points can be observed.

        Args:
            quantities: What is measured.

        Returns:
            Layer, tap or edge -> point -> names of measures.
        """
        found: dict[str, dict[str, tuple[str, ...]]] = {}
        for layer in self.watched:
            found[layer.name] = {}
        for quantity in quantities:
            for subject in self._concerned(quantity, probing=True):
                points = found.setdefault(subject.name, {})
                for point, fields in fields_of(quantity, subject).items():
                    points[point] = (*points.get(point, ()), *fields)
        return found

    def skipped_points(self, quantities: Sequence[Quantity]) -> list[Skipped]:
        """Points of watched layers that no quantity measures, with the reason."""
        refused = {q.name: self.why_not(q) for q in quantities}
        unpaired = [
            Skipped(pair, f"{quantity.name}: {reason}")
            for quantity in quantities
            if isinstance(quantity, SpectralEdges)
            for pair, reason in quantity.refused(self.table, self.flow).items()
        ]
        return [Skipped(name, text) for name, text in refused.items() if text] + [
            *unpaired,
            *(
                Skipped(f"{layer.name} ({point})", f"{quantity.name}: {reason}")
                for quantity in quantities
                if isinstance(quantity, PointQuantity)
                for layer in self.watched
                for point, reason in quantity.skipped_points(layer).items()
            ),
        ]

    def pairs(self, quantities: Sequence[Quantity]) -> list[LayerPair]:
        """The layers that feed each other, as far as the log has to know.

        Args:
            quantities: What is measured.

        Returns:
            The pairs whose spectral neurons are compared, or can be from the vectors
            that are stored.
        """
        for quantity in quantities:
            if isinstance(quantity, SpectralEdges):
                return list(self.edges(quantity))
        stored = any(isinstance(quantity, WeightVectors) for quantity in quantities)
        return list(self.edges(_TRACED)) if stored and self.flow else []

    def why_not(self, quantity: Quantity) -> str | None:
        """Why a quantity cannot be measured of this model at all.

        Args:
            quantity: The quantity.

        Returns:
            The reason; None if it can be.
        """
        if isinstance(quantity, JacobianQuantity):
            return self.undifferentiable
        lonely = isinstance(quantity, SpectralEdges) and not self.edges(quantity)
        return NO_PAIRS if lonely and self.flow else None

    def of_points(self, quantities: Sequence[Quantity], chosen: set[Part]) -> OfPoints:
        """The chosen layers and taps of each quantity that observes points.

        Args:
            quantities: Those due.
            chosen: Which (quantity, layer) to measure.

        Returns:
            Pairs of a quantity and what it observes.
        """
        several = [q for q in quantities if isinstance(q, PointQuantity)]
        return self._with_watched(several, chosen)

    def of_jacobians(
        self, quantities: Sequence[Quantity], chosen: set[Part]
    ) -> OfJacobians:
        """The chosen layers and taps of each quantity that needs Jacobians.

        Args:
            quantities: Those due.
            chosen: Which (quantity, layer) to measure.

        Returns:
            Pairs of a quantity and what it measures.
        """
        several = [q for q in quantities if isinstance(q, JacobianQuantity)]
        return self._with_watched(several, chosen)

    def _with_watched(
        self, quantities: Sequence[Q], chosen: set[Part]
    ) -> list[tuple[Q, list[Watched]]]:
        """The chosen layers and taps of each; without those that have none."""
        pairs = [
            (quantity, [x for x in self.watched if (quantity.name, x.name) in chosen])
            for quantity in quantities
        ]
        return [(quantity, watched) for quantity, watched in pairs if watched]


def wants_pairs(due: Sequence[Quantity]) -> bool:
    """Whether the log has pairs beside vectors, where a probe runs anyway.

    Args:
        due: What is to be measured.

    Returns:
        True if all processes have to know the flow for it.
    """
    stored = any(isinstance(quantity, WeightVectors) for quantity in due)
    return stored and any(map(needs_probe, due))
