"""Watch the rank of every layer of a PyTorch model while it trains.

Importing this package loads neither torch, nor lightning, nor tensorboard: each
public name below is resolved when it is first used.
"""

from svdhooks._lazy import lazy_names

__version__ = "0.1.0"

_TABLE = {
    "Alarm": "svdhooks.alarms",
    "AlarmEvent": "svdhooks.alarms",
    "Alarms": "svdhooks.alarms",
    "AttentionLogits": "svdhooks.quantities.attention",
    "Covariance": "svdhooks.quantities.covariance",
    "ExpertLoad": "svdhooks.quantities.expert_load",
    "JacobianOptions": "svdhooks.jacobians",
    "JacobianSpectrum": "svdhooks.quantities.local_rank",
    "Ledger": "svdhooks.quantities.ledger",
    "LiDAR": "svdhooks.quantities.lidar",
    "Light": "svdhooks.quantities.light",
    "LiveView": "svdhooks.display",
    "LocalRank": "svdhooks.jacobians.local_rank",
    "LoggerSink": "svdhooks.sinks.loggers",
    "MemorySink": "svdhooks.sinks.memory",
    "Moments": "svdhooks.linalg.moments",
    "PointMoments": "svdhooks.quantities.moments",
    "ProbeOptions": "svdhooks.probe",
    "Record": "svdhooks.record",
    "Recorder": "svdhooks.recorder",
    "RecordingError": "svdhooks.reports",
    "RecordingWarning": "svdhooks.reports",
    "RunLog": "svdhooks.runlog",
    "Schedule": "svdhooks.schedule",
    "Sink": "svdhooks.sinks",
    "SpectralEdges": "svdhooks.quantities.spectral_edges",
    "SpectrumCallback": "svdhooks.transformers",
    "SpectrumMonitor": "svdhooks.lightning",
    "SubspaceDrift": "svdhooks.quantities.drift",
    "TensorBoardSink": "svdhooks.sinks.tensorboard",
    "TokenRank": "svdhooks.quantities.tokens",
    "UpdateSpectrum": "svdhooks.quantities.update",
    "WeightSpectrum": "svdhooks.quantities.weight_spectrum",
    "WeightVectors": "svdhooks.quantities.vectors",
    "alarms": "svdhooks.alarms",
    "analysis": "svdhooks.analysis",
    "any_of": "svdhooks.schedule",
    "at": "svdhooks.schedule",
    "checkpoint": "svdhooks.checkpoint",
    "compare": "svdhooks.analysis.comparison",
    "derived": "svdhooks.derived",
    "display": "svdhooks.display",
    "every": "svdhooks.schedule",
    "layer_pairs": "svdhooks.front",
    "layers": "svdhooks.layers",
    "lightning": "svdhooks.lightning",
    "linalg": "svdhooks.linalg",
    "local_rank": "svdhooks.jacobians.front",
    "log_spaced": "svdhooks.schedule",
    "plan": "svdhooks.planning",
    "quantities": "svdhooks.quantities",
    "report": "svdhooks.analysis.reporting",
    "runs": "svdhooks.runlog",
    "scan": "svdhooks.front",
    "scan_checkpoint": "svdhooks.checkpoint",
    "scan_series": "svdhooks.checkpoint",
    "schedule": "svdhooks.schedule",
    "snapshot": "svdhooks.front",
    "transformers": "svdhooks.transformers",
    "view": "svdhooks.analysis.notebook",
    "watch": "svdhooks.front",
}

# those of the Hugging Face Trainer need a package that is not installed with this one:
# they are found by name, and `from svdhooks import *` leaves them out
_NEED_TRANSFORMERS = ("SpectrumCallback", "transformers")

__all__ = [
    *(name for name in _TABLE if name not in _NEED_TRANSFORMERS),
    "__version__",
]

__getattr__, __dir__ = lazy_names(__name__, _TABLE)
