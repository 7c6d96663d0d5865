"""Pictures of what the analysis finds: each takes data and returns a matplotlib Figure.

No figure is registered with pyplot and no setting changes: ``figure.savefig(path)`` writes
one, and a notebook shows what a cell returns. Needs matplotlib: ``svdhooks[analysis]``.
"""

from svdhooks.analysis.plots.adjacency import plot_adjacency
from svdhooks.analysis.plots.comparison import plot_comparison
from svdhooks.analysis.plots.descramblers import plot_descrambler
from svdhooks.analysis.plots.layer_graph import plot_layer_graph
from svdhooks.analysis.plots.measures import plot_measure
from svdhooks.analysis.plots.rank_map import plot_rank_map
from svdhooks.analysis.plots.refit import plot_refit
from svdhooks.analysis.plots.spectra import plot_spectra
from svdhooks.analysis.plots.weights import plot_descrambled

__all__ = [
    "plot_adjacency",
    "plot_comparison",
    "plot_descrambled",
    "plot_descrambler",
    "plot_layer_graph",
    "plot_measure",
    "plot_rank_map",
    "plot_refit",
    "plot_spectra",
]
