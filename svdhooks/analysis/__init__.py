"""What a run says afterwards: descrambling, spectral graphs, pictures.

Everything here reads a source, a `svdhooks.RunLog` or a `svdhooks.MemorySink`, and needs no
model. Names are resolved on first use.
"""

from svdhooks._lazy import lazy_names

_TABLE = {
    "DescrambledLayer": "svdhooks.analysis.descrambling",
    "LayerSnapshot": "svdhooks.analysis.snapshots",
    "PairAdjacency": "svdhooks.analysis.graph",
    "PointMoment": "svdhooks.analysis.snapshots",
    "SpectralGraph": "svdhooks.analysis.graph",
    "descrambled": "svdhooks.analysis.descrambling",
    "layer_snapshot": "svdhooks.analysis.snapshots",
    "plot_adjacency": "svdhooks.analysis.plots",
    "plot_descrambled": "svdhooks.analysis.plots",
    "plot_descrambler": "svdhooks.analysis.plots",
    "plot_layer_graph": "svdhooks.analysis.plots",
    "plot_refit": "svdhooks.analysis.plots",
    "spectral_graph": "svdhooks.analysis.graph",
}

__all__ = [*_TABLE]

__getattr__, __dir__ = lazy_names(__name__, _TABLE)
