"""What several files of this folder share."""

import threading
from collections.abc import Iterator

import pytest


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Holds the thread that solves until it is opened."""
    from svdhooks.linalg.problems import _RowsProblem  # after its types are checked

    go, original = threading.Event(), _RowsProblem.solve

    def solve(self: _RowsProblem) -> object:
        go.wait(60)
        return original(self)

    monkeypatch.setattr(_RowsProblem, "solve", solve)
    yield go
    go.set()
