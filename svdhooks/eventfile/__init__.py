"""TensorBoard event files: written whole or not at all, read past any damage."""

from svdhooks.eventfile.reader import EventReader, read_events
from svdhooks.eventfile.writer import EventFileWriter, event_files

__all__ = ["EventFileWriter", "EventReader", "event_files", "read_events"]
