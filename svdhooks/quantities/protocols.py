"""The ways to be measured: from a weight, between weights, at the points, by derivatives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor, nn

from svdhooks.flow import Flow
from svdhooks.jacobians.options import JacobianOptions, LayerJacobian
from svdhooks.layers import Layer, LayerTable, PointValue, Samples
from svdhooks.layers.tap import Watched
from svdhooks.record import Record
from svdhooks.schedule import Schedule


@runtime_checkable
class Quantity(Protocol):
    """What every quantity has.

    Attributes:
        name: Under which its records are filed.
        schedule: Its own schedule; None: the recorder's.
    """

    @property
    def name(self) -> str:
        """Under which its records are filed."""
        ...

    @property
    def schedule(self) -> Schedule | None:
        """Its own schedule; None: the recorder's."""
        ...


@runtime_checkable
class WeightQuantity(Quantity, Protocol):
    """Measured from the weight of one layer; needs no data."""

    def measure(self, layer: Layer, step: int) -> Record | Sequence[Record]:
        """Measure one layer.

        Args:
            layer: The layer.
            step: Optimiser updates contained in the weights.

        Returns:
            The record, or one for each of several matrices; errors may be raised, the
            recorder turns them into statuses.
        """
        ...

    def failed(self, layer: Layer, step: int, status: str) -> Record | Sequence[Record]:
        """What is recorded of a measurement that failed: NaN of the right shape."""
        ...


@runtime_checkable
class Edge(Protocol):
    """What an edge quantity measures: something between layers that has a name."""

    @property
    def name(self) -> str:
        """Under which its records are filed, as a layer's."""
        ...


@runtime_checkable
class EdgeQuantity(Quantity, Protocol):
    """Measured from the weights of several layers; needs no data.

    One that says ``needs_flow`` has to know which layer feeds which, so that the model is
    run once for it.
    """

    def edges(
        self, table: LayerTable, flow: Flow, model: nn.Module | None = None
    ) -> Sequence[Edge]:
        """What there is to measure in a model.

        Args:
            table: What is watched.
            flow: Which layer feeds which; empty where, or as long as, that is unknown.
            model: The plain module, for what lies between layers.

        Returns:
            The edges; their attributes that are layers say which weights are read.
        """
        ...

    def measure_edge(self, edge: Any, step: int) -> Record:
        """Measure one of the edges; errors become statuses."""
        ...

    def failed_edge(self, edge: Any, step: int, status: str) -> Record:
        """The record of a measurement that failed: NaN values of the right shape."""
        ...


@dataclass
class ProbeContext:
    """What an observer has to know about the forward passes that it observes.

    Attributes:
        step: Optimiser updates contained in the weights.
        mask: Which tokens of the present batch count; None: all.
        samples: What a sample is where there is a sequence axis.
        expected_calls: ``id(module)`` -> calls in one forward, as counted before; 0
            where there may be any number.
        source: Whose forward it is, for statuses.
        flow: Which layer feeds which; empty where that was not traced.
        together: Whether other processes see the rest of it: what passes is kept until
            `Unites.unite` puts it together.
    """

    step: int
    mask: Bool[Tensor, "batch length"] | None
    samples: Samples
    expected_calls: Mapping[int, int]
    source: str = "the probe"
    together: bool = False
    flow: Flow = field(default_factory=Flow)


@runtime_checkable
class PointObserver(Protocol):
    """Reduces what passes the points during one probe."""

    def receive(self, layer: Watched, values: Mapping[str, PointValue]) -> None:
        """Take in what one call of a layer's module showed.

        Args:
            layer: The layer.
            values: Point name -> value; not to be kept.
        """
        ...

    def fail(self, layer: Watched, error: Exception) -> None:
        """Note that reading a layer's points failed."""
        ...

    def records(self) -> Sequence[Record]:
        """One record per chosen layer and point, also where nothing was seen."""
        ...


@runtime_checkable
class PointQuantity(Quantity, Protocol):
    """Measured from what passes the points of layers while the probe runs."""

    def observer(
        self, layers: Sequence[Watched], context: ProbeContext
    ) -> PointObserver:
        """Start to observe one probe.

        Args:
            layers: Those chosen for this record.
            context: What is known about the probe.

        Returns:
            The observer.
        """
        ...

    def measured_points(self, layer: Watched) -> Sequence[str]:
        """The points of a layer that are measured; none: it is not concerned."""
        ...

    def skipped_points(self, layer: Watched) -> Mapping[str, str]:
        """Point name -> reason, for points that were to be measured and are not."""
        ...


@dataclass(frozen=True)
class JacobianContext:
    """What is known when the Jacobians of one record are.

    Attributes:
        step: Optimiser updates contained in the weights.
        weights: Layer -> singular values of its weight, descending; those that could not
            be read, and those of many experts, are missing.
        chains: Layer -> the layers before it, in order, where nothing but linear layers,
            ReLU and reshaping is between the model's input and its output.
    """

    step: int
    weights: Mapping[str, NDArray[Any]]
    chains: Mapping[str, tuple[str, ...]]


@runtime_checkable
class JacobianQuantity(Quantity, Protocol):
    """Measured from the Jacobians input -> pre-activation; needs the model."""

    @property
    def jacobian_options(self) -> JacobianOptions:
        """How they are found."""
        ...

    def differentiated(self, layer: Watched) -> bool:
        """Whether a layer or tap is concerned."""
        ...

    def of_jacobian(
        self, layer: Watched, jacobian: LayerJacobian, context: JacobianContext
    ) -> Record:
        """The record of one layer.

        Args:
            layer: The layer or tap.
            jacobian: Of all samples; its status says where it could not be found.
            context: What else is known.

        Returns:
            The record; with a status and NaN where the Jacobian has one.
        """
        ...


def needs_probe(quantity: Quantity) -> bool:
    """Whether the model is run on its reference batch for a quantity.

    Args:
        quantity: Any.

    Returns:
        True for what is measured at points, from Jacobians, and from weights of layers
        that have to be known to feed each other.
    """
    if isinstance(quantity, EdgeQuantity):
        return needs_flow(quantity)
    return isinstance(quantity, (PointQuantity, JacobianQuantity))


def needs_flow(quantity: Quantity) -> bool:
    """Whether a quantity has to know which layer feeds which.

    Args:
        quantity: Any.

    Returns:
        True for what is measured from Jacobians, and for what says ``needs_flow``.
    """
    said = bool(getattr(quantity, "needs_flow", False))
    return said or isinstance(quantity, JacobianQuantity)
