"""How a view in a notebook is kept up to date, and what a cell is given to show."""

import sys
from dataclasses import dataclass, field
from threading import Event, Thread

from svdhooks.display import LiveView


@dataclass(frozen=True)
class Picture:
    """What a cell shows, as it was when it was drawn.

    Attributes:
        html: For a notebook.
        text: For a terminal.
    """

    html: str = field(repr=False)
    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


class Follower(Thread):
    """Brings a view up to date every few seconds.

    Args:
        view: What is followed; kept alive, for a cell may show it and nobody hold it.
        seconds: Between two looks.
    """

    def __init__(self, view: LiveView, seconds: float) -> None:
        super().__init__(name="svdhooks view", daemon=True)
        self._view = view
        self._seconds = max(seconds, 0.05)
        self._over = Event()

    def run(self) -> None:
        """Look, until it is stopped."""
        while not self._over.wait(self._seconds):
            self._view.update(now=False)

    def stop(self) -> None:
        """Do not look again."""
        self._over.set()


def cell_number() -> int:
    """Which cell of a notebook is being run; -1 where there is none."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return int(getattr(shell, "execution_count", -1))
