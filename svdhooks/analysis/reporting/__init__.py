"""One page that says what runs were like: `svdhooks.report("runs/exp1", "report.html")`.

Everything on it is read from the log, and says by which call. Does not import torch
unless the log holds singular vectors.
"""

from svdhooks.analysis.reporting.report import report
from svdhooks.analysis.reporting.run import page_data

__all__ = ["page_data", "report"]
