"""One record: every due quantity on every chosen layer, errors turned to statuses."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from svdhooks.hooks import count_calls, observed
from svdhooks.isolation import probe_context
from svdhooks.layers import Layer, LayerTable, PointValue, Skipped
from svdhooks.overhead import Part
from svdhooks.probe import Forward, ProbeOptions, ReferenceBatch
from svdhooks.quantities import PointObserver, PointQuantity, Quantity, WeightQuantity
from svdhooks.quantities.again import UnchangedWeights
from svdhooks.quantities.protocols import ProbeContext
from svdhooks.record import Record
from svdhooks.reports import Reporter, status_of


@dataclass
class Measured:
    """What one record holds.

    Attributes:
        records: One per layer and matrix.
        costs: Seconds of each part.
    """

    records: list[Record] = field(default_factory=list)
    costs: dict[Part, float] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Take in a record and the time it took."""
        part = (record.quantity, record.layer)
        self.costs[part] = self.costs.get(part, 0.0) + record.seconds
        self.records.append(record)


class Measurer:
    """Measures layers of one model; knows neither schedules nor sinks.

    Args:
        model: The plain module.
        table: What to watch.
        options: How the reference batch is read.
        forward: How to call the model; None: ``model(*args, **kwargs)``.
        reporter: Where problems go.
        exhausted: Whether the time of a record is used up; what is not measured by
            then is left out.
    """

    def __init__(
        self,
        model: nn.Module,
        table: LayerTable,
        options: ProbeOptions,
        forward: Forward | None,
        reporter: Reporter,
        exhausted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model = model
        self.table = table
        self.options = options
        self.forward = forward
        self.refused: str | None = None
        self._reporter = reporter
        self._exhausted = exhausted
        self._expected_calls: Mapping[int, int] = {}
        self._weights = UnchangedWeights()

    def parts(self, quantities: Sequence[Quantity], probing: bool) -> list[Part]:
        """What can be measured now, in the order of the model.

        Args:
            quantities: Those due.
            probing: Whether a reference batch is known.

        Returns:
            Pairs of quantity name and layer name.
        """
        return [
            (quantity.name, layer.name)
            for quantity in quantities
            for layer in self._concerned(quantity, probing)
        ]

    def _concerned(self, quantity: Quantity, probing: bool) -> list[Layer]:
        # asked once per quantity: whether a protocol is met takes 15 µs to find out
        if isinstance(quantity, WeightQuantity):
            return [layer for layer in self.table.layers if layer.tied_to is None]
        if not (probing and isinstance(quantity, PointQuantity)):
            return []
        return [
            layer
            for layer in self.table.layers
            if layer.points.keys() > quantity.skipped_points(layer).keys()
        ]

    def skipped_points(self, quantities: Sequence[Quantity]) -> list[Skipped]:
        """Points of watched layers that no quantity measures, with the reason."""
        return [
            Skipped(f"{layer.name} ({point})", f"{quantity.name}: {reason}")
            for quantity in quantities
            if isinstance(quantity, PointQuantity)
            for layer in self.table.layers
            for point, reason in quantity.skipped_points(layer).items()
        ]

    def rehearse(self, reference: ReferenceBatch) -> None:
        """Run the probe once without measuring: does it work, who is called how often.

        Args:
            reference: The reference batch.

        Raises:
            Exception: Whatever the model or the mask raises.
        """
        reference.mask(self.options.mask, self.model)
        with (
            probe_context(self.model),
            count_calls([layer.module for layer in self.table.layers]) as calls,
        ):
            reference.run(self.model, self.forward)
        self._expected_calls = dict(calls)
        silent = [x.name for x in self.table.layers if not calls[id(x.module)]]
        if silent:
            self._reporter.note(
                "uncalled",
                "svdhooks: the probe forward calls no module of "
                f"{', '.join(silent[:8])}{', …' if len(silent) > 8 else ''}: their "
                "weights are recorded, their inputs and outputs cannot be seen.",
            )

    def measure(
        self,
        step: int,
        quantities: Sequence[Quantity],
        chosen: set[Part],
        reference: ReferenceBatch | None,
    ) -> Measured:
        """Measure the chosen parts.

        Args:
            step: Optimiser updates contained in the weights.
            quantities: Those due.
            chosen: Which (quantity, layer) to measure.
            reference: The reference batch, if one is known.

        Returns:
            Records and what they cost.
        """
        measured = Measured()
        for quantity in quantities:
            if isinstance(quantity, WeightQuantity):
                for layer in self._layers(quantity, chosen):
                    if not self._exhausted():
                        measured.add(self._weight(quantity, layer, step))
        of_points = [
            (quantity, layers)
            for quantity in quantities
            if isinstance(quantity, PointQuantity)
            and (layers := self._layers(quantity, chosen))
        ]
        if reference is None or self.refused is not None or self._exhausted():
            return measured
        for record in self._probe(of_points, step, reference) if of_points else ():
            measured.add(record)
        return measured

    def _layers(self, quantity: Quantity, chosen: set[Part]) -> list[Layer]:
        return [x for x in self.table.layers if (quantity.name, x.name) in chosen]

    def _weight(self, quantity: WeightQuantity, layer: Layer, step: int) -> Record:
        begun = time.perf_counter()
        try:
            record = self._weights.measure(quantity, layer, step)
        except Exception as error:  # noqa: BLE001  # a measurement may fail
            record = quantity.failed(layer, step, status_of(error))
            self._report(record, error)
        else:
            self._report(record, None)
        return replace(record, seconds=time.perf_counter() - begun)

    def _probe(
        self,
        of_points: Sequence[tuple[PointQuantity, list[Layer]]],
        step: int,
        reference: ReferenceBatch,
    ) -> Iterator[Record]:
        failure: Exception | None = None
        observers: list[PointObserver] = []
        late: set[str] = set()
        context = ProbeContext(step, None, self.options.samples, {})
        try:
            if not self._expected_calls:
                self.rehearse(reference)
            mask = reference.mask(self.options.mask, self.model)
            context = replace(context, mask=mask, expected_calls=self._expected_calls)
            observers = self._observers(of_points, context)
            layers = {x for _, several in of_points for x in several}
            self._run(observers, layers, reference, late)
        except Exception as error:  # noqa: BLE001  # a measurement may fail
            failure = error
            self._refuse_if_harmful(error)
            self._reporter.problem(
                "probe",
                f"svdhooks: the probe forward failed at step {step}: "
                f"{status_of(error)}. Covariances are missing in this record. "
                f"{_PROBE_ADVICE}",
                error,
            )
            # those that have seen nothing say so for every layer
            observers = observers or self._observers(of_points, context)
        for observer in observers:
            for record in self._records(observer, late):
                if failure is not None and not record.ok:
                    yield replace(record, status=f"probe failed: {status_of(failure)}")
                else:
                    self._report(record, None)
                    yield record

    def _observers(
        self,
        of_points: Sequence[tuple[PointQuantity, list[Layer]]],
        context: ProbeContext,
    ) -> list[PointObserver]:
        observers = []
        for quantity, layers in of_points:
            try:
                observers.append(quantity.observer(layers, context))
            except Exception as error:  # noqa: BLE001  # a measurement may fail
                self._report_lost(quantity.name, error)
        return observers

    def _records(self, observer: PointObserver, late: set[str]) -> Sequence[Record]:
        try:
            return [r for r in observer.records() if r.layer not in late]
        except Exception as error:  # noqa: BLE001  # a measurement may fail
            self._report_lost(type(observer).__name__, error)
            return ()

    def _report_lost(self, what: str, error: Exception) -> None:
        self._reporter.problem(
            what,
            f"svdhooks: {what} failed: {status_of(error)}. Its records are missing; "
            "training goes on.",
            error,
        )

    def _run(
        self,
        observers: Sequence[PointObserver],
        layers: set[Layer],
        reference: ReferenceBatch,
        late: set[str],
    ) -> None:
        def receive(layer: Layer, values: Mapping[str, PointValue]) -> None:
            if self._exhausted():
                late.add(layer.name)
                return
            for observer in observers:
                try:
                    observer.receive(layer, values)
                except Exception as error:  # noqa: BLE001  # that of one, not of all
                    observer.fail(layer, error)

        def fail(layer: Layer, error: Exception) -> None:
            for observer in observers:
                observer.fail(layer, error)

        ordered = [layer for layer in self.table.layers if layer in layers]
        with probe_context(self.model), observed(ordered, receive, fail):
            reference.run(self.model, self.forward)

    def _refuse_if_harmful(self, error: Exception) -> None:
        if "changes parameters in place" in str(error):
            self.refused = str(error)

    def _report(self, record: Record, cause: Exception | None) -> None:
        if not record.ok:
            self._reporter.problem(
                f"layer {record.layer}",
                f"svdhooks: {record.quantity} of layer {record.layer!r}"
                f"{f' ({record.point})' if record.point != 'weight' else ''} could not "
                f"be recorded at step {record.step}: {record.status}. Its values are "
                "NaN there; training goes on.",
                cause,
            )


_PROBE_ADVICE = (
    "Give a batch that the model accepts as probe= (tensor; tuple of positional "
    "arguments; mapping of keyword arguments), and forward=(model, batch) if the model "
    "is called otherwise."
)
