"""A run shown in a notebook or terminal: a small table, sparklines, one plot."""

from svdhooks.display.bounds import Status, bounded_steps
from svdhooks.display.live import LiveView
from svdhooks.display.overview import Source
from svdhooks.display.page import html
from svdhooks.display.text import text

__all__ = ["LiveView", "Source", "Status", "bounded_steps", "html", "text"]
