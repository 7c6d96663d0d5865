"""Where the reference batch comes from, and how a resumed run finds the same one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from torch import nn

from svdhooks.capture import Capture, capture_next_call
from svdhooks.layers import unwrap
from svdhooks.probe import Forward, ProbeOptions, ReferenceBatch
from svdhooks.reports import Reporter

FILE = "probe.pt"
HASH_FILE = "probe.sha256"


def hash_file(name: str) -> str:
    """Name of the file with the digest of a reference batch.

    Args:
        name: Of the model, among several; empty for the only one.

    Returns:
        A name beside the log.
    """
    return _named(HASH_FILE, name)


def _named(file: str, name: str) -> str:
    stem, _, ending = file.partition(".")
    return f"{stem}-{quote(name, safe='')}.{ending}" if name else file


class ReferenceKeeper:
    """Holds the reference batch: given, stored by an earlier run, or captured.

    Args:
        model: The object that the training loop calls.
        probe: The batch given by the user; None: stored or captured.
        options: How it is kept.
        forward: How the model is called; None: by its arguments.
        directory: The run's directory; None: nothing is stored.
        resumed: Whether an earlier run's batch in ``directory`` is to be used.
        reporter: Where problems go.
        name: Of the model, among several.

    Attributes:
        batch: The batch; None: none is known yet.
        given: Whether the user gave it.
        directory: The run's.
        resumed: Whether it is compared with that of an earlier run.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Any,
        options: ProbeOptions,
        forward: Forward | None,
        directory: Path | None,
        resumed: bool,
        reporter: Reporter,
        name: str = "",
    ) -> None:
        self.batch: ReferenceBatch | None = None
        self.given = probe is not None
        self._model = model
        self._options = options
        self._forward = forward
        self.directory = directory
        self._reporter = reporter
        self._capture: Capture | None = None
        self.resumed = resumed
        self._file, self._hash_file = _named(FILE, name), hash_file(name)
        if self.given:
            self._keep(ReferenceBatch.given(probe))
        elif resumed:
            self.batch = self._stored()

    def listen(self) -> None:
        """Capture the model's next call in training mode, unless a batch is known."""
        if self.batch is not None or self._capture is not None:
            return
        if self._forward is not None:
            return  # it takes a batch of the loader, which a call need not show
        self._capture = capture_next_call(self._model, self._captured)

    def step_made(self) -> None:
        """Stop listening, unless the model was compiled in place meanwhile: again."""
        displaced = self._capture is not None and self._capture.displaced
        self.stop_listening()
        if displaced:
            self.listen()

    def stop_listening(self) -> None:
        """Leave the model's calls as they were."""
        if self._capture is not None:
            self._capture.remove()
            self._capture = None

    def offer(self, batch: Any) -> None:
        """Take a training batch as the reference if none is known.

        Args:
            batch: As it comes from the loader.
        """
        if self.batch is None:
            model = unwrap(self._model)
            self._try(lambda: ReferenceBatch.from_training(batch, model))

    def _captured(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self.batch is None:
            self._try(lambda: ReferenceBatch.from_call(args, kwargs))

    def _try(self, make: Callable[[], ReferenceBatch]) -> None:
        """Keep a batch of the training; that may fail, training may not."""
        try:
            self._keep(make())
        except Exception as error:  # noqa: BLE001  # we are in the training loop
            self._reporter.problem(
                "batch",
                f"svdhooks: the training batch cannot serve as the reference: {error}",
                error,
            )

    def _keep(self, batch: ReferenceBatch) -> None:
        self.batch = batch
        self._compare(batch)

    def forget(self) -> None:
        """Use the batch of an earlier run no more; another one is captured."""
        self.batch = None
        self.resumed = False

    # --- with the run ---------------------------------------------------------

    def store(self) -> None:
        """Write the batch, or its hash, beside the log; once."""
        if self.directory is None or self.batch is None:
            return
        try:
            path, digest = self.directory / self._file, self.batch.digest()
            if path.exists() and self._stored_digest() == digest:
                return
            path.unlink(missing_ok=True)  # of another batch
            (self.directory / self._hash_file).write_text(digest + "\n")
            if (
                self._options.keep == "batch"
                and self.batch.nbytes <= self._options.max_bytes
            ):
                self.batch.save(path)
        except Exception as error:  # noqa: BLE001  # storing may fail, training may not
            self._reporter.problem(
                "probe file",
                f"svdhooks: could not store the reference batch in {self.directory} "
                f"({error}); a resumed run will have to be given the same probe=.",
                error,
            )

    def _stored(self) -> ReferenceBatch | None:
        if self.directory is None or not (self.directory / self._file).exists():
            return None
        try:
            return ReferenceBatch.load(self.directory / self._file)
        except Exception as error:  # noqa: BLE001  # a damaged file is not fatal
            self._reporter.problem(
                "probe file",
                f"svdhooks: could not read the stored reference batch "
                f"{self.directory / self._file} ({error}); another one is captured, so "
                "covariances before and after this restart are of different data.",
                error,
            )
            return None

    def _stored_digest(self) -> str | None:
        """The hash of the batch that the run used before."""
        path = self.directory / self._hash_file if self.directory is not None else None
        return path.read_text().strip() if path is not None and path.exists() else None

    def _compare(self, batch: ReferenceBatch) -> None:
        """Say so when a resumed run probes other data than before."""
        if not self.resumed or self._stored_digest() in {None, batch.digest()}:
            return
        self._reporter.note(
            "probe changed",
            "svdhooks: the reference batch differs from the one that this run used "
            "before; covariances before and after are of different data. Give the "
            f"same probe=, or none to use the stored one ({self._file}).",
        )
