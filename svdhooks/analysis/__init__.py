"""What a run says afterwards: phases, comparison, descrambling, graphs, pictures.

Everything here reads a source, a `svdhooks.RunLog` or a `svdhooks.MemorySink`, and needs no
model. Names are resolved on first use.
"""

from svdhooks._lazy import lazy_names

_TABLE = {
    "Comparison": "svdhooks.analysis.comparison",
    "DescrambledLayer": "svdhooks.analysis.descrambling",
    "LayerSnapshot": "svdhooks.analysis.snapshots",
    "Phase": "svdhooks.analysis.trajectory",
    "PairAdjacency": "svdhooks.analysis.graph",
    "PointMoment": "svdhooks.analysis.snapshots",
    "SpectralGraph": "svdhooks.analysis.graph",
    "compare": "svdhooks.analysis.comparison",
    "correlation": "svdhooks.analysis.trajectory",
    "descrambled": "svdhooks.analysis.descrambling",
    "fall_order": "svdhooks.analysis.trajectory",
    "layer_snapshot": "svdhooks.analysis.snapshots",
    "phases": "svdhooks.analysis.trajectory",
    "plot_adjacency": "svdhooks.analysis.plots",
    "plot_comparison": "svdhooks.analysis.plots",
    "plot_descrambled": "svdhooks.analysis.plots",
    "plot_descrambler": "svdhooks.analysis.plots",
    "plot_layer_graph": "svdhooks.analysis.plots",
    "plot_measure": "svdhooks.analysis.plots",
    "plot_rank_map": "svdhooks.analysis.plots",
    "plot_refit": "svdhooks.analysis.plots",
    "plot_spectra": "svdhooks.analysis.plots",
    "spectral_graph": "svdhooks.analysis.graph",
    "time_to": "svdhooks.analysis.trajectory",
}

__all__ = [*_TABLE]

__getattr__, __dir__ = lazy_names(__name__, _TABLE)
