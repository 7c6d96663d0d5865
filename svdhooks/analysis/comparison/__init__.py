"""Runs compared: which layers differ, since when, by how much against their spread."""

from svdhooks.analysis.comparison.compared import Comparison, compare

__all__ = ["Comparison", "compare"]
