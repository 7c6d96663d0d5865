"""The hyper-parameters of a run, from whoever wrote them down."""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from struct import unpack
from typing import Any

from svdhooks import schema
from svdhooks.eventfile.wire import fields
from svdhooks.eventfile.writer import event_files
from svdhooks.runlog.tagstore import TagStore

Value = bool | int | float | str

LIGHTNING_FILE = "hparams.yaml"
TENSORBOARD_TAG = "_hparams_/session_start_info"
_MOST, _DEEPEST, _LONGEST = 10_000, 20, 1_000
_MOST_BYTES, _DIRECTORIES = 2**20, 100
# of HParamsPluginData, SessionStartInfo, its map, and google.protobuf.Value
_SESSION_START, _HPARAMS, _KEY, _VALUE = 3, 1, 1, 2
_NUMBER, _STRING, _BOOL = 2, 3, 4


def find_hparams(settings: Mapping[str, Any], log_dir: Path) -> dict[str, Value]:
    """What is known of the hyper-parameters of a run.

    Args:
        settings: Of the run; ``"hparams"`` were given to `svdhooks.watch`, or are those
            of the LightningModule.
        log_dir: Of the logger. ``hparams.yaml`` in it is Lightning's. Where neither
            says anything, what TensorBoard's HParams dashboard shows is read, from the
            directory and those directly below (``SummaryWriter.add_hparams``).

    Returns:
        Name -> value, nested names with dots between. What is no number, truth value or
        text is text: lists as JSON, None as ``"None"``.
    """
    own = flat(settings.get("hparams") or {})
    found = flat(_lightning(log_dir / LIGHTNING_FILE)) | own
    return found or _tensorboard(log_dir)


def flat(nested: Any) -> dict[str, Value]:
    """Nested mappings as one, with dots between the names.

    Args:
        nested: A mapping; anything else has no names and gives nothing.

    Returns:
        At most 10,000 values, from at most 20 levels, texts of at most 1,000
        characters: a file of few lines may unfold to anything.
    """
    found: dict[str, Value] = {}
    for name, value in _leaves(nested, "", 0):
        if len(found) >= _MOST:
            break
        found[name] = _plain(value)
    return found


def session_start(content: bytes) -> dict[str, Value]:
    """Hyper-parameters as TensorBoard's HParams plugin keeps them.

    Args:
        content: Of the plugin's metadata, of the tag ``_hparams_/session_start_info``.

    Returns:
        Name -> value, ``/`` as a dot. All numbers are floats there, truth values of
        ``SummaryWriter`` too; whole ones are read as integers. Empty if damaged.
    """
    found: dict[str, Value] = {}
    try:
        for start, stop in _of(content, 0, len(content), _SESSION_START):
            for begin, end in _of(content, start, stop, _HPARAMS):
                ((a, b),) = _of(content, begin, end, _KEY)
                name = content[a:b].decode(errors="replace").replace("/", ".")
                for a, b in _of(content, begin, end, _VALUE):
                    found[name] = _value(content, a, b)
    except (IndexError, ValueError):
        return {}
    return found


def _leaves(nested: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Dotted names, and what is no mapping."""
    if not isinstance(nested, Mapping):
        return
    for key, value in nested.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and depth < _DEEPEST:
            yield from _leaves(value, f"{name}.", depth + 1)
        else:
            yield name, value


def _plain(value: Any) -> Value:
    """A number, a truth value or a text."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value[:_LONGEST]
    if isinstance(value, list | tuple) and all(
        isinstance(entry, bool | int | float | str | None) for entry in value
    ):
        return json.dumps(list(value)[:_LONGEST])[:_LONGEST]
    # the text of a container of containers may be longer than the memory
    nested = isinstance(value, list | tuple | set | Mapping)
    return f"<{type(value).__name__}>" if nested and value else str(value)[:_LONGEST]


def _lightning(path: Path) -> Any:
    """What Lightning wrote, as plain data; nothing if it cannot be read.

    Objects in it are not made: their text stands for them, or their fields.

    Returns:
        What the file holds, a mapping if all is well.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            return {}
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    try:
        import yaml  # comes with lightning, which wrote the file
    except ImportError:
        return {}

    class Loader(yaml.SafeLoader):  # type: ignore[misc,unused-ignore]
        """Makes no object of Python's."""

    def unmade(loader: Any, suffix: str, node: Any) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return node.value or suffix.rpartition(":")[2]

    Loader.add_multi_constructor("", unmade)
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return {}


def _tensorboard(log_dir: Path) -> dict[str, Value]:
    """What the HParams dashboard shows of the directory and those directly below."""
    below = (path for path in log_dir.iterdir() if path.is_dir())
    found: dict[str, Value] = {}
    for directory in (log_dir, *sorted(islice(below, _DIRECTORIES))):
        if directory.name != schema.SUBDIRECTORY and event_files(directory):
            store = TagStore(directory)
            store.refresh()
            rows = store.rows(TENSORBOARD_TAG)
            found |= {} if rows is None else session_start(rows.tag.content)
    return found


def _of(data: bytes, begin: int, end: int, number: int) -> list[tuple[int, int]]:
    """Where the fields of one number of a message are."""
    return [(a, b) for field, a, b in fields(data, begin, end) if field == number]


def _value(data: bytes, begin: int, end: int) -> Value:
    """What a google.protobuf.Value holds; what is not plain has no text there."""
    for field, a, b in fields(data, begin, end):
        if field == _NUMBER:
            number = float(unpack("<d", data[a:b])[0])
            return int(number) if number.is_integer() else number
        if field == _STRING:
            return data[a:b].decode(errors="replace")[:_LONGEST]
        if field == _BOOL:
            return data[a] != 0
    return "None"
