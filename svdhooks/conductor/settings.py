"""The recorder's configuration, checked before anything is touched."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from svdhooks.alarms import Alarm, Alarms, resolve_alarms
from svdhooks.conductor.context import Hparam, flat_hparams
from svdhooks.layers import Selector
from svdhooks.layers.select import check_selectors
from svdhooks.layers.tap import TapChoice, check_taps
from svdhooks.probe import Forward, ProbeOptions
from svdhooks.quantities import (
    EdgeQuantity,
    JacobianQuantity,
    Quantity,
    needs_flow,
    resolve_quantities,
)
from svdhooks.quantities.options import options_of
from svdhooks.reports import OnError
from svdhooks.schedule import Schedule, check_schedule, every

QuantityChoice = str | Quantity | Iterable[str | Quantity] | None
AlarmChoice = str | Alarm | Sequence[str | Alarm] | Alarms | None
Observe = Literal["probe", "training"]


@dataclass(frozen=True)
class Settings:
    """Everything about a recording but the model and where it goes.

    Attributes:
        schedule: When to record.
        layers: Which layers; None: all.
        taps: Name -> module whose output is observed too.
        observe: ``"probe"``, or ``"training"`` for what the model really saw.
        quantities: What to measure; None: weight spectra and covariances.
        probe: The reference batch; None: captured from training.
        probe_options: What of it counts and how it is kept.
        forward: How to call the model, ``(model, batch)``.
        max_overhead: Largest share of training time; None: no limit.
        on_error: ``"warn"`` or ``"raise"``.
        start_step: Updates already contained in the weights when resuming.
        max_log_gb: From this size of the log on, less is stored; None: no limit.
        alarms: What is watched for; None: nothing.
        hparams: Of the training, as told in the log.
    """

    schedule: Schedule = field(default_factory=lambda: every(100))
    layers: Selector | Sequence[Selector] | None = None
    taps: TapChoice | None = None
    observe: Observe = "probe"
    quantities: tuple[Quantity, ...] = field(
        default_factory=lambda: resolve_quantities(None)
    )
    probe: Any = None
    probe_options: ProbeOptions = field(default_factory=ProbeOptions)
    forward: Forward | Mapping[str, Forward] | None = None
    max_overhead: float | None = 0.01
    on_error: OnError = "warn"
    start_step: int | None = None
    max_log_gb: float | None = 2.0
    alarms: Alarms | None = None
    hparams: Mapping[str, Hparam] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            TypeError: If an argument is of a wrong kind.
            ValueError: If a number is out of range.
        """
        check_schedule(self.schedule)
        if not isinstance(self.probe_options, ProbeOptions):
            raise TypeError(
                f"Found {type(self.probe_options).__name__} as probe_options=; expected "
                "svdhooks.ProbeOptions(...)."
            )
        _check_forward(self.forward)
        if self.observe not in ("probe", "training"):
            raise ValueError(
                f"observe={self.observe!r}: expected 'probe' (a forward on the side, on "
                "the same batch at every record) or 'training' (what the model really "
                "saw, through hooks in its training forward)."
            )
        if self.observe == "training" and self.probe is not None:
            raise ValueError(
                "Found probe= together with observe='training', which observes the "
                "training batches instead; give one of them."
            )
        derived = [q.name for q in self.quantities if isinstance(q, JacobianQuantity)]
        if self.observe == "training" and derived:
            raise ValueError(
                f"Found {', '.join(derived)} together with observe='training'; expected "
                "observe='probe': Jacobians are taken at a reference batch, on the side of "
                "the training."
            )
        edges = [q for q in self.quantities if isinstance(q, EdgeQuantity)]
        traced = [q.name for q in edges if needs_flow(q)]
        if self.observe == "training" and traced:
            raise ValueError(
                f"Found {', '.join(traced)} without pairs= together with "
                "observe='training'; expected SpectralEdges(pairs=[('fc1', 'fc2')]), or "
                "observe='probe': which layer feeds which is traced in a forward on the "
                "side of the training."
            )
        check_selectors(self.layers)
        check_taps(self.taps)
        if self.on_error not in {"warn", "raise"}:
            raise ValueError(f"on_error={self.on_error!r}: expected 'warn' or 'raise'.")
        _check_size(self.max_log_gb)
        _check_share(self.max_overhead)
        _check_start(self.start_step)

    def of(self, name: str) -> "Settings":
        """The settings of one of several models.

        Args:
            name: The model's; empty for the only one.

        Returns:
            The same with its reference batch, forward and taps alone.

        Raises:
            TypeError: If the only model has several forwards.
        """
        if not name:
            if isinstance(self.forward, Mapping):
                raise TypeError(
                    "Found a mapping as forward= for a single model; expected a callable "
                    "(model, batch)."
                )
            return self
        forward, probe = self.forward, self.probe
        taps = {
            tap: choice
            for tap, choice in (self.taps or {}).items()
            if check_taps({tap: choice})[tap][0].split(".")[0] == name
        }
        return replace(
            self,
            taps=taps,
            probe=None if probe is None else probe.get(name),
            forward=forward.get(name) if isinstance(forward, Mapping) else forward,
        )

    def describe(self) -> dict[str, Any]:
        """The settings as they go into the log."""
        return {
            "schedule": str(self.schedule),
            "layers": None if self.layers is None else str(self.layers),
            "taps": {name: str(choice) for name, choice in (self.taps or {}).items()},
            "observe": self.observe,
            "quantities": [
                {
                    "name": q.name,
                    "schedule": None if q.schedule is None else str(q.schedule),
                    "options": options_of(q),
                }
                for q in self.quantities
            ],
            "samples": self.probe_options.samples,
            "mask": None
            if self.probe_options.mask is None
            else str(self.probe_options.mask),
            "forward": None if self.forward is None else str(self.forward),
            "max_overhead": self.max_overhead,
            "start_step": self.start_step,
            "alarms": describe_alarms(self.alarms),
            "hparams": dict(self.hparams),
        }


def describe_alarms(alarms: Alarms | None) -> list[dict[str, Any]] | None:
    """Alarms as they go into the log.

    Args:
        alarms: The rules; None: nothing is watched for.

    Returns:
        Name and options of each rule.
    """
    if alarms is None:
        return None
    return [{"name": rule.name, "options": options_of(rule)} for rule in alarms.rules]


def make_settings(
    every_n_steps: int | None,
    schedule: Schedule | None,
    quantities: QuantityChoice,
    alarms: AlarmChoice = None,
    hparams: Mapping[str, Any] | None = None,
    **others: Any,
) -> Settings:
    """Build settings from the arguments of ``watch`` or of a callback.

    Args:
        every_n_steps: Interval; None: the default, every 100 steps.
        schedule: A schedule instead of the interval.
        quantities: Names or objects.
        alarms: A preset, rules, or both with what to do about them.
        hparams: Of the training, perhaps nested.
        **others: Passed on.

    Returns:
        The settings.

    Raises:
        ValueError: If both an interval and a schedule are given.
    """
    if schedule is not None and every_n_steps is not None:
        raise ValueError(
            f"Found both an interval ({every_n_steps}) and schedule={schedule}; give one."
        )
    if schedule is None:
        schedule = every(100 if every_n_steps is None else every_n_steps)
    return Settings(
        schedule=schedule,
        quantities=resolve_quantities(quantities, schedule),
        alarms=resolve_alarms(alarms),
        hparams=flat_hparams(hparams),
        **others,
    )


def _check_forward(forward: object) -> None:
    several = forward.values() if isinstance(forward, Mapping) else (forward,)
    if forward is not None and not all(map(callable, several)):
        raise TypeError(
            f"forward={forward!r}: expected a callable (model, batch); for several "
            "models one, or a mapping of their names to callables."
        )


def _check_share(share: object) -> None:
    if share is None:
        return
    if isinstance(share, bool) or not isinstance(share, (int, float)):
        raise TypeError(
            f"max_overhead={share!r}: expected a share of the training time, such as "
            "0.01, or None for no limit."
        )
    if not 0 < share < 1:
        raise ValueError(
            f"max_overhead={share!r}: expected a share of the training time between 0 "
            "and 1, such as 0.01, or None for no limit."
        )


def _check_size(gigabytes: object) -> None:
    if gigabytes is None:
        return
    if isinstance(gigabytes, bool) or not isinstance(gigabytes, (int, float)):
        raise TypeError(
            f"max_log_gb={gigabytes!r}: expected a number of gigabytes, such as 2.0, or "
            "None for no limit."
        )
    if not gigabytes > 0:
        raise ValueError(
            f"max_log_gb={gigabytes!r}: expected a positive number of gigabytes, or None "
            "for no limit."
        )


def _check_start(step: object) -> None:
    if step is None:
        return
    if isinstance(step, bool) or not isinstance(step, int):
        raise TypeError(
            f"start_step={step!r}: expected a whole number, the optimiser updates "
            "already in the weights."
        )
    if step < 0:
        raise ValueError(f"start_step={step}: expected a step >= 0.")
