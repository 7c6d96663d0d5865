"""The recorder's configuration, checked before anything is touched."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from svdhooks.layers import Selector
from svdhooks.probe import Forward, ProbeOptions
from svdhooks.quantities import Quantity, resolve_quantities
from svdhooks.reports import OnError
from svdhooks.schedule import Schedule, check_schedule, every

QuantityChoice = str | Quantity | Iterable[str | Quantity] | None


@dataclass(frozen=True)
class Settings:
    """Everything about a recording but the model and where it goes.

    Attributes:
        schedule: When to record.
        layers: Which layers; None: all.
        quantities: What to measure; None: weight spectra and covariances.
        probe: The reference batch; None: captured from training.
        probe_options: What of it counts and how it is kept.
        forward: How to call the model, ``(model, batch)``.
        max_overhead: Largest share of training time; None: no limit.
        on_error: ``"warn"`` or ``"raise"``.
        start_step: Updates already contained in the weights when resuming.
    """

    schedule: Schedule = field(default_factory=lambda: every(100))
    layers: Selector | Sequence[Selector] | None = None
    quantities: tuple[Quantity, ...] = field(
        default_factory=lambda: resolve_quantities(None)
    )
    probe: Any = None
    probe_options: ProbeOptions = field(default_factory=ProbeOptions)
    forward: Forward | None = None
    max_overhead: float | None = 0.01
    on_error: OnError = "warn"
    start_step: int | None = None

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
        if self.forward is not None and not callable(self.forward):
            raise TypeError(
                f"forward={self.forward!r}: expected a callable (model, batch)."
            )
        _check_share(self.max_overhead)
        _check_start(self.start_step)

    def describe(self) -> dict[str, Any]:
        """The settings as they go into the log."""
        return {
            "schedule": str(self.schedule),
            "layers": None if self.layers is None else str(self.layers),
            "quantities": [
                {
                    "name": q.name,
                    "schedule": None if q.schedule is None else str(q.schedule),
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
        }


def make_settings(
    every_n_steps: int | None,
    schedule: Schedule | None,
    quantities: QuantityChoice,
    unavailable: dict[str, Any],
    **others: Any,
) -> Settings:
    """Build settings from the arguments of ``watch`` or of a callback.

    Args:
        every_n_steps: Interval; None: the default, every 100 steps.
        schedule: A schedule instead of the interval.
        quantities: Names or objects.
        unavailable: Arguments that are part of the interface and not of this
            version, name -> value; anything but the neutral value is refused.
        **others: Passed on.

    Returns:
        The settings.

    Raises:
        ValueError: If both an interval and a schedule are given, or an argument
            asks for what this version cannot do.
    """
    if schedule is not None and every_n_steps is not None:
        raise ValueError(
            f"Found both an interval ({every_n_steps}) and schedule={schedule}; give one."
        )
    for name, value in unavailable.items():
        neutral = "probe" if name == "observe" else None
        if value and value != neutral:  # an empty mapping or list asks for nothing
            raise ValueError(
                f"{name}={value!r} is not available in this version of svdhooks; "
                f"leave it at {neutral!r}."
            )
    if schedule is None:
        schedule = every(100 if every_n_steps is None else every_n_steps)
    return Settings(
        schedule=schedule, quantities=resolve_quantities(quantities), **others
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


Observe = Literal["probe", "training"]
