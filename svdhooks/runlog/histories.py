"""Local rank and ledger of one layer over a run: values, and how they show themselves."""

from collections.abc import Iterator, KeysView, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svdhooks.display import tables
from svdhooks.display.bounds import BOUND, SKETCHED
from svdhooks.display.overview import Curve, count, figure, signed

_UNITS = {"information": "nats", "information_slope": "directions", "noise": "σ"}


@dataclass(frozen=True, eq=False, repr=False)
class LocalRankHistory:
    """The local rank of one layer over a run; ``steps, mean = history``.

    Statistics are over the samples of the reference batch. They are NaN at steps at which
    the Jacobian could not be found.

    Attributes:
        layer: Its name.
        relative: Whether the threshold is ``eps·σ₁`` instead of ``eps``.
        steps: ``(T,)``.
        mean: ``(T,)``, the local rank.
        std: ``(T,)``, with 1/N.
        min: ``(T,)``.
        max: ``(T,)``.
        samples: ``(T,)``, how many; 0 where it failed.
        eps: ``(T,)``, the threshold, or its ratio to σ₁.
        directions: ``(T,)``, how many directions of the input were taken; 0 where it
            failed.
        lower_bound: ``(T,)``, where these are not all: singular values, and ranks above
            an absolute threshold, are at least what is told. A relative rank may then
            err to either side, for σ₁ is only bounded too.
        spectra: ``(T, r)``, mean over samples of the singular values, descending; NaN
            where none is there. Of long ones, of which only the display form was kept,
            that.
    """

    layer: str
    relative: bool
    steps: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    min: NDArray[np.float64]
    max: NDArray[np.float64]
    samples: NDArray[np.int64]
    eps: NDArray[np.float64]
    directions: NDArray[np.int64]
    lower_bound: NDArray[np.bool_]
    spectra: NDArray[Any]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """For ``steps, mean = history``."""
        return iter((self.steps, self.mean))

    @property
    def threshold(self) -> str:
        """What is counted, in words."""
        told = np.unique(self.eps[np.isfinite(self.eps)])
        value = f"{told[0]:g}" if len(told) == 1 else "ε"
        return f"σ > {value}{'·σ₁' if self.relative else ''}"

    def __repr__(self) -> str:
        ends = " → ".join(self._curve(self.mean).ends)
        return (
            f"<local rank of {tables.brief(self.layer)}: {ends}, {self.threshold}, "
            f"{tables.reach(self.steps)}>"
        )

    def __str__(self) -> str:
        return tables.text_table(self._table())

    def _repr_html_(self) -> str:
        named = {"max": self.max, "mean": self.mean, "min": self.min}
        curves = [(name, self._curve(values)) for name, values in named.items()]
        return tables.html_table(self._table(), curves)

    @property
    def _signs(self) -> dict[int, str]:
        sign = SKETCHED if self.relative else BOUND
        return dict.fromkeys(self.steps[self.lower_bound].tolist(), sign)

    def _curve(self, values: NDArray[np.float64]) -> Curve:
        return Curve(self.steps, values, self._signs)

    def _table(self) -> tables.Table:
        signs = [self._signs.get(step, "") for step in self.steps.tolist()]

        def shown(values: NDArray[np.float64]) -> list[str]:
            pairs = zip(signs, values.tolist(), strict=True)
            return [signed(sign, value) for sign, value in pairs]

        cells = {
            "step": [f"{step:,}" for step in self.steps.tolist()],
            "mean": shown(self.mean),
            "std": [figure(value) for value in self.std.tolist()],
            "min": shown(self.min),
            "max": shown(self.max),
        }
        heading = f"{self.threshold}, {tables.reach(self.steps)}"
        counts = np.unique(self.samples[self.samples > 0])
        if len(counts) == 1:
            heading += f", {count(int(counts[0]), 'sample')}"
        else:
            cells["samples"] = [str(number) for number in self.samples.tolist()]
        return tables.Table("Local rank", self.layer, heading, cells, self._note())

    def _note(self) -> str:
        """What the sign before the numbers means."""
        if not self.lower_bound.any():
            return ""
        k = "/".join(map(str, np.unique(self.directions[self.lower_bound]).tolist()))
        if self.relative:
            return (
                f"{SKETCHED}by {k} random directions of the input: an estimate, for σ₁ "
                "is only bounded."
            )
        return f"{BOUND}by {k} random directions of the input: at least that many."


@dataclass(frozen=True, eq=False, repr=False)
class LedgerHistory:
    """What one layer throws away, over a run; ``steps, fields = history``.

    A field is read as ``history["input_null_share"]`` or ``history.input_null_share``;
    docs/measures.md says what each is.

    Attributes:
        layer: Its name.
        steps: ``(T,)``.
        fields: Name -> ``(T,)``; NaN where it was not measured.
    """

    layer: str
    steps: NDArray[np.int64]
    fields: Mapping[str, NDArray[np.float64]]

    def __iter__(self) -> Iterator[Any]:
        """For ``steps, fields = history``."""
        return iter((self.steps, self.fields))

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """One field ``(T,)``; a KeyError names those that there are."""
        if name not in self.fields:
            raise KeyError(self._no(name))
        return self.fields[name]

    def __getattr__(self, name: str) -> NDArray[np.float64]:
        """One field ``(T,)``, by a dot."""
        # asked while it is unpickled, too, when there are no fields yet
        fields = self.__dict__.get("fields", {})
        if name in fields:
            found: NDArray[np.float64] = fields[name]
            return found
        raise AttributeError(
            name if name.startswith("_") else self._no(name), name=name, obj=self
        )

    def __contains__(self, name: object) -> bool:
        """Whether there is such a field."""
        return name in self.fields

    def keys(self) -> KeysView[str]:
        """Names of the fields."""
        return self.fields.keys()

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.fields})

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.fields)

    def __repr__(self) -> str:
        return (
            f"<ledger of {tables.brief(self.layer)}: "
            f"{count(len(self.fields), 'field')}, {tables.reach(self.steps)}>"
        )

    def __str__(self) -> str:
        return tables.text_curves(*self._shown())

    def _repr_html_(self) -> str:
        return tables.html_curves(*self._shown())

    def _shown(self) -> tuple[str, str, str, list[tuple[str, Curve]]]:
        named = [
            (_in_words(name), Curve(self.steps[:n], values[:n]))
            for name, values in self.fields.items()
            # one dash where there is no number at all
            for n in [len(values) if np.isfinite(values).any() else 1]
        ]
        return "Ledger", self.layer, tables.reach(self.steps), named

    def _no(self, name: str) -> str:
        return f"The ledger has no field {name!r}; it has {', '.join(self.fields)}."


def _in_words(field: str) -> str:
    unit = f" ({_UNITS[field]})" if field in _UNITS else ""
    return f"{field.replace('_', ' ')}{unit}"
