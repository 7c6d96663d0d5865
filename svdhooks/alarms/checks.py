"""Options of rules, checked when a rule is made."""

import math
from typing import Protocol, runtime_checkable

from svdhooks.alarms.signals import Patience


@runtime_checkable
class _HasFactors(Protocol):
    @property
    def factor(self) -> float: ...
    @property
    def alone(self) -> float: ...


def check_number(rule: object, name: str, low: float, high: float) -> None:
    """Check an option that is a number in an open interval.

    Args:
        rule: Whose option.
        name: Of the option.
        low: It must be larger.
        high: It must be smaller.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is outside.
    """
    value, told = getattr(rule, name), type(rule).__name__
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"{told}({name}={value!r}): found {type(value).__name__}, expected a number. "
            f"Leave it out for the default."
        )
    if not low < value < high:
        bounds = f"above {low:g}" + (f" and below {high:g}" * math.isfinite(high))
        raise ValueError(
            f"{told}({name}={value!r}): expected a number {bounds}. Leave it out for the "
            "default."
        )


def check_rule(rule: object) -> None:
    """Check what all rules have.

    Args:
        rule: Whose options.

    Raises:
        TypeError: If one is of a wrong kind.
        ValueError: If one is out of its range.
    """
    told = type(rule).__name__
    name, severity = getattr(rule, "name", None), getattr(rule, "severity", None)
    if not isinstance(name, str) or not name:
        raise TypeError(f"{told}(name={name!r}): expected a word, such as 'collapse'.")
    if severity not in {"alarm", "info"}:
        raise ValueError(f"{told}(severity={severity!r}): expected 'alarm' or 'info'.")
    patience = getattr(rule, "patience", None)
    if patience is not None and not isinstance(patience, Patience):
        raise TypeError(
            f"{told}(patience={patience!r}): expected Patience(records=3, steps=50)."
        )


def check_factors(rule: _HasFactors) -> None:
    """Check the options of a rule about growth.

    Args:
        rule: Whose options.

    Raises:
        TypeError: If one is of a wrong kind.
        ValueError: If one is out of its range.
    """
    check_rule(rule)
    check_number(rule, "factor", 1.0, math.inf)
    check_number(rule, "alone", 1.0, math.inf)
    if rule.alone < rule.factor:
        raise ValueError(
            f"{type(rule).__name__}(factor={rule.factor:g}, alone={rule.alone:g}): what "
            "is enough alone is more than what is enough with another sign. Give alone "
            "at least the value of factor."
        )
