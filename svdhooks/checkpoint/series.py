"""A series of checkpoints as the log of a run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from svdhooks.checkpoint.contents import contents_of
from svdhooks.checkpoint.finding import checkpoints
from svdhooks.checkpoint.scanning import (
    CheckpointScan,
    Progress,
    scan_of,
)
from svdhooks.checkpoint.writing import LogWriter
from svdhooks.quantities import WeightSpectrum, WeightVectors
from svdhooks.sinks.tensorboard import TensorBoardSink


@dataclass(frozen=True, eq=False)
class SeriesScan:
    """What became of a series of checkpoints.

    Attributes:
        log: The log directory: ``svdhooks.RunLog(series.log)``.
        steps: Step -> checkpoint, of those in the log.
        unchanged: Layer -> steps at which its weight was that of the checkpoint before,
            byte for byte. Marked ``"unchanged"`` in the log, too.
        failed: Checkpoints that could not be read, and why.
        skipped: Tensors without a record, and why.
    """

    log: Path
    steps: Mapping[int, Path]
    unchanged: Mapping[str, tuple[int, ...]]
    failed: tuple[tuple[Path, str], ...]
    skipped: tuple[tuple[str, str], ...]

    def __fspath__(self) -> str:
        return str(self.log)


def scan_series(
    pattern: str | Path,
    step: str = r"step(\d+)",
    *,
    log: str | Path,
    vectors: int | Literal["all"] | None = None,
    layers: str | Sequence[str] = "*",
    measures: Sequence[str] = (),
    start_step: int | None = None,
    progress: Progress | None = None,
) -> SeriesScan:
    r"""Scan checkpoints of one run into a log, which is read like that of a live run.

    A checkpoint that cannot be read is warned of, listed, and passed over.

    Args:
        pattern: Glob of the checkpoints: ``"ckpts/step*/"``, ``"ckpts/*.ckpt"``.
        step: Regular expression with one group: the step in a path.
        log: Directory of the log.
        vectors: How many leading singular vectors of each layer to keep, or ``"all"``,
            by which weights can be had back (`svdhooks.WeightVectors`). None: none.
        layers: Globs of layer names.
        measures: Further measures, as of `scan_checkpoint`.
        start_step: Go on with a log: checkpoints before this step are left out, and
            records at or after it are superseded. None: a new log.
        progress: Called with layers done, layers in all (estimated from the first
            checkpoint), and what is next.

    Returns:
        Where the log is, and what became of each checkpoint.

    Raises:
        ValueError: If an argument is wrong, nothing matches, two checkpoints have one
            step, or none can be read.
        FileExistsError: If the log holds records already and ``start_step`` is None.
        OSError: If the log cannot be written.
    """
    quantities = _quantities(measures, vectors)
    found, without = checkpoints(str(pattern), step)
    chosen = {s: path for s, path in found.items() if s >= (start_step or 0)}
    if not chosen:
        raise ValueError(
            f"start_step={start_step} leaves none of the steps {_several(found)}; expected "
            "one that is not after the last."
        )
    sink = TensorBoardSink(log, start_step=start_step, max_log_gb=None)
    run = LogWriter(
        sink, quantities, layers, _settings(str(pattern), step, chosen, start_step)
    )
    run.failed += without
    try:
        for number, (at, path) in enumerate(chosen.items()):
            run.take(at, path, _part(progress, number, len(chosen)))
        run.close()
    finally:
        sink.close()
    return SeriesScan(
        Path(log),
        run.done,
        {name: tuple(steps) for name, steps in run.unchanged.items()},
        tuple(run.failed),
        tuple((x.name, x.reason) for x in run.skipped.values()),
    )


def log_checkpoint(
    path: str | Path,
    log: str | Path,
    *,
    vectors: int | Literal["all"] | None = None,
    layers: str | Sequence[str] = "*",
    measures: Sequence[str] = (),
    progress: Progress | None = None,
) -> CheckpointScan:
    """Scan one checkpoint into a log of one step.

    Args:
        path: As of `scan_checkpoint`.
        log: Directory of the log.
        vectors: As of `scan_series`.
        layers: Globs of layer names.
        measures: Further measures.
        progress: As of `scan_checkpoint`.

    Returns:
        As `scan_checkpoint`. The step in the log is the one that the checkpoint tells;
        0 if it tells none.

    Raises:
        ValueError: As `scan_checkpoint`.
        FileExistsError: If the log holds records already.
        OSError: If the checkpoint cannot be read or the log cannot be written.
    """
    quantities = _quantities(measures, vectors)
    contents = contents_of(Path(path), layers)
    facts = contents.checkpoint.facts
    step = max(int(facts.get("global_step", facts.get("step", 0))), 0)
    at = {step: Path(path)}
    sink = TensorBoardSink(log, max_log_gb=None)
    run = LogWriter(sink, quantities, layers, _settings(str(path), "", at, None))
    try:
        records = run.write(step, contents, progress)
    finally:
        sink.close()
    return scan_of(contents, records)


def _quantities(
    measures: Sequence[str], vectors: int | Literal["all"] | None
) -> tuple[WeightSpectrum, WeightVectors | None]:
    spectra = WeightSpectrum(measures=tuple(measures))
    if vectors is None:
        return spectra, None
    return spectra, WeightVectors(None if vectors == "all" else _count(vectors))


def _count(vectors: object) -> int:
    if isinstance(vectors, bool) or not isinstance(vectors, int):
        raise TypeError(
            f"vectors={vectors!r}: expected a whole number, 'all', or None."
        )
    return vectors


def _several(steps: Iterable[int]) -> str:
    return ", ".join(map(str, list(steps)[:12]))


def _settings(
    pattern: str, step: str, chosen: Mapping[int, Path], start: int | None
) -> dict[str, Any]:
    return {
        "source": "checkpoints",
        "pattern": pattern,
        "step": step,
        "checkpoints": {str(at): str(path) for at, path in chosen.items()},
        "start_step": start or 0,
    }


def _part(progress: Progress | None, number: int, several: int) -> Progress | None:
    """One progress for all, as if every checkpoint had as many layers."""
    if progress is None:
        return None

    def tell(done: int, total: int, name: str) -> None:
        progress(number * total + done, several * total, name)

    return tell
