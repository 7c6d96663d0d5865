"""A cell of a notebook that follows a run."""

import time
from collections.abc import Callable
from typing import Any

from svdhooks.display.overview import Source, chosen_measures
from svdhooks.display.page import html
from svdhooks.display.text import text


class LiveView:
    """A run's table and a plot of one measure, redrawn in place as records come.

    ``memory.live()`` makes one that follows a `MemorySink` by itself; one of a `RunLog`
    follows when ``update`` is called.

    Args:
        source: A `RunLog` or a `MemorySink`.
        measure: What is drawn over the steps; None: the first headline measure that
            was recorded.
        title: What the run is called.
        seconds: Redraw at most this often.
        clock: Seconds; an argument for tests.
    """

    def __init__(
        self,
        source: Source,
        measure: str | None = None,
        *,
        title: str = "",
        seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._measure = measure
        self._title = title
        self._seconds = seconds
        self._clock = clock
        self._handle: Any = None
        self._drawn = -float("inf")

    def show(self) -> "LiveView":
        """Show it in the cell that is being run.

        Returns:
            Itself.

        Raises:
            ImportError: If there is no IPython.
        """
        try:
            from IPython.display import (  # type: ignore[import-not-found,unused-ignore]
                display,
            )
        except ImportError as error:
            raise ImportError(
                "A live view needs a notebook: pip install ipython, or jupyterlab. In a "
                "terminal, print(memory) or svdhooks summary <log_dir> show the same."
            ) from error
        self._drawn = self._clock()
        self._handle = display(self._picture(), display_id=True)
        return self

    def update(self, *, now: bool = True) -> bool:
        """Redraw it where it is shown.

        Args:
            now: Also if the last time was less than ``seconds`` ago.

        Returns:
            Whether it was redrawn.
        """
        due = now or self._clock() - self._drawn >= self._seconds
        if self._handle is None or not due:
            return False
        refresh = getattr(self._source, "refresh", None)
        if refresh is not None:
            refresh()
        self._handle.update(self._picture())
        self._drawn = self._clock()
        return True

    def _picture(self) -> Any:
        """What the cell shows, as it is now."""
        return self

    def __repr__(self) -> str:
        return text(self._source, title=self._title)

    def _repr_html_(self) -> str:
        measure = self._measure
        if measure is None:
            measure = next(iter(chosen_measures(self._source)), None)
        return html(self._source, title=self._title, measure=measure)
