"""Alarms: rules over the records of a run, the same live and from its log."""

from svdhooks.alarms.afterwards import alarms_of, loss_source, readings
from svdhooks.alarms.choosing import PRESETS, Alarms, resolve_alarms
from svdhooks.alarms.collapse import Collapse
from svdhooks.alarms.compression import Compression
from svdhooks.alarms.event import Alarm, AlarmEvent
from svdhooks.alarms.failing import AllZero, NonFinite
from svdhooks.alarms.growth import AttentionLogits, Exploding
from svdhooks.alarms.reading import Reading
from svdhooks.alarms.signals import Patience
from svdhooks.alarms.tokens import TokenCollapse
from svdhooks.alarms.units import DeadUnits
from svdhooks.alarms.watching import Watcher

__all__ = [
    "PRESETS",
    "Alarm",
    "AlarmEvent",
    "Alarms",
    "AllZero",
    "AttentionLogits",
    "Collapse",
    "Compression",
    "DeadUnits",
    "Exploding",
    "NonFinite",
    "Patience",
    "Reading",
    "TokenCollapse",
    "Watcher",
    "alarms_of",
    "loss_source",
    "readings",
    "resolve_alarms",
]
