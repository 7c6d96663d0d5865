"""Every figure of a report, computed again by the call that stands beside it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

import svdhooks
from svdhooks.web.page import ARRAY, PageData

_AXES = {"steps", "logged_steps"}
"""Arrays of a run that stand for themselves."""


def told(call: str, log: Any, **more: Any) -> Any:
    """What a call of a report gives, as a user would type it."""
    names = {"log": log, "svdhooks": svdhooks, "numpy": np, **more}
    return eval(call, names)  # that is what is tested


def arrays_without_a_call(node: Any, path: str = "") -> Iterator[str]:
    """Where an array stands in a tree without a call beside it or above it."""
    if isinstance(node, list):
        for i, one in enumerate(node):
            yield from arrays_without_a_call(one, f"{path}[{i}]")
    elif isinstance(node, dict) and not {"call", "calls"} & set(node):
        if ARRAY in node:
            yield path
        for key, one in node.items():
            if key not in _AXES:
                yield from arrays_without_a_call(one, f"{path}.{key}")


class Checked:
    """The figures of one run of a page against its log.

    Attributes:
        compared: How many arrays and numbers were.
    """

    def __init__(self, page: PageData, run: dict[str, Any], log: Any) -> None:
        self.page, self.run, self.log = page, run, log
        self.compared = 0
        self._steps = page.array(run["steps"])
        assert not list(arrays_without_a_call(run))

    def all(self) -> int:
        """Compare everything."""
        self.measures()
        self.spectra()
        self.histories()
        self.series()
        self.graphs()
        self.verdict()
        return self.compared

    def measures(self) -> None:
        for measure in self.run["measures"]:
            values = self.page.array(measure["values"])
            for column, row in enumerate(self.run["layers"]):
                found = told(measure["call"], self.log, layer=row["name"])
                self._equal(_at(self._steps, *found), values[:, column])

    def spectra(self) -> None:
        for points in self.run["spectra"].values():
            for entry in points.values():
                call = entry["call"]
                steps, values = told(call, self.log)
                index = told(call.replace(".spectra(", ".spectrum_index("), self.log)
                rows = np.isin(steps, self.page.array(entry["steps"]))
                columns = np.isin(index, self.page.array(entry["index"]))
                self._equal(values[np.ix_(rows, columns)], self._array(entry, "values"))
                assert entry["of"] == len(steps)
                assert entry["thinned"] == (not rows.all() or not columns.all())
                if entry["edge"] is not None:
                    edge = told(entry["edge_call"], self.log)
                    there = _at(self.page.array(entry["steps"]), *edge)
                    self._equal(there, self._array(entry, "edge"))

    def histories(self) -> None:
        for kinds in self.run["local_rank"].values():
            for entry in kinds.values():
                history = told(entry["call"], self.log)
                assert history.threshold == entry["threshold"]
                steps = self.page.array(entry["steps"])
                for name in ("mean", "std", "min", "max"):
                    values = getattr(history, name)
                    self._equal(
                        _at(steps, history.steps, values), self._array(entry, name)
                    )
                bound = _at(steps, history.steps, history.lower_bound.astype(float))
                self._equal(bound, self._array(entry, "bound"))
        for entry in self.run["ledger"].values():
            ledger = told(entry["call"], self.log)
            steps = self.page.array(entry["steps"])
            assert set(entry["fields"]) == set(ledger.keys())
            for name in entry["fields"]:
                values = _at(steps, ledger.steps, ledger[name])
                self._equal(values, self._array(entry["fields"], name))

    def series(self) -> None:
        for entry in (*self.run["scalars"], *self.run["run_measures"]):
            found = _at(self.page.array(entry["steps"]), *told(entry["call"], self.log))
            self._equal(found, self._array(entry, "values"))

    def graphs(self) -> None:
        for entry in self.run["pairs"]:
            rows, columns = self._array(entry, "adjacency").shape
            whole = told(entry["call"], self.log)
            assert list(whole.shape) == entry["of"]
            self._equal(whole[:rows, :columns], self._array(entry, "adjacency"))
        for entry in self.run["internal"]:
            steps = self.page.array(entry["steps"])
            for name, call in entry["calls"].items():
                self._equal(_at(steps, *told(call, self.log)), self._array(entry, name))
        for entry in self.run["descrambled"]:
            layer = told(entry["call"], self.log)
            self._equal(layer.weight, self._array(entry, "raw"))
            self._equal(layer.descrambled, self._array(entry, "descrambled"))

    def verdict(self) -> None:
        for number in self.run["verdict"]["figures"]:
            found = told(number["call"], self.log)
            if number["step"] is not None:
                found = _at(np.array([number["step"]]), *found)[0]
            assert found == number["value"] or np.isnan([found, number["value"]]).all()
            self.compared += 1
        if self.run["alarms_call"] is not None:
            events = [
                event.as_dict() for event in told(self.run["alarms_call"], self.log)
            ]
            shown = [
                {key: value for key, value in row.items() if key != "source"}
                for row in self.run["alarms"]
            ]
            for event in events:
                assert event in shown
                self.compared += 1

    def _array(self, entry: dict[str, Any], name: str) -> Any:
        return self.page.array(entry[name])

    def _equal(self, found: Any, shown: Any) -> None:
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(np.asarray(found, np.float32), shown)
        self.compared += 1


def _at(steps: Any, known: Any, values: Any) -> Any:
    """A curve at some steps; NaN where it has none."""
    found = dict(
        zip(np.asarray(known).tolist(), np.asarray(values).tolist(), strict=True)
    )
    return np.array([found.get(step, np.nan) for step in steps.tolist()])
