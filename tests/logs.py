"""Logs for tests: records, runs written to disk, and TensorBoard's own two readers."""

import json
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard import context
from tensorboard.backend.event_processing import data_provider as multiplexer_provider
from tensorboard.backend.event_processing import plugin_event_multiplexer
from tensorboard.data import provider as provider_types
from tensorboard.data import server_ingester
from tensorboard.util import grpc_util

from svdhooks.record import Record
from svdhooks.sinks.tensorboard import TensorBoardSink

WEIGHT_FIELDS = ("stable_rank", "spectral_norm", "effective_rank")
COVARIANCE_FIELDS = ("effective_rank", "total_variance", "count")


def meta_record(
    layers: Mapping[str, int] | Sequence[str], step: int = 0, **more: Any
) -> Record:
    """A layer table; a mapping gives each layer's width."""
    widths = layers if isinstance(layers, Mapping) else dict.fromkeys(layers, 8)
    table = [
        {
            "name": name,
            "kind": "Linear",
            "shape": [n, n],
            "rank_limit": n,
            "dtype": "float32",
            "points": {"input": n, "output": n},
            "tied_to": None,
        }
        for name, n in widths.items()
    ]
    meta = {
        "schema": 1,
        "svdhooks": "0.1.0",
        "layers": table,
        "skipped": [{"name": "head", "reason": "too wide"}],
        "settings": {"every": 10},
        "start_step": step,
        **more,
    }
    return Record(step, "", "meta", {"json": np.array(json.dumps(meta))})


def run_record(step: int, **values: float) -> Record:
    return Record(step, "", "run", {k: np.asarray(v) for k, v in values.items()})


def weight_record(
    step: int, layer: str, n: int = 8, dtype: type = np.float32, **more: Any
) -> Record:
    """Random singular values and measures that depend on step and layer alone."""
    random = np.random.default_rng([step, *layer.encode(), 1])
    values = {"spectrum": np.sort(random.random(n).astype(dtype))[::-1]}
    values |= {name: np.asarray(random.random()) for name in WEIGHT_FIELDS}
    return Record(
        step, layer, "weight_spectrum", values, method="gram", point="weight", **more
    )


def covariance_record(
    step: int, layer: str, point: str, n: int = 8, **more: Any
) -> Record:
    random = np.random.default_rng([step, *layer.encode(), *point.encode()])
    spectrum = np.sort(random.random(n, dtype=np.float32))[::-1]
    values = {"spectrum": spectrum}
    values |= {name: np.asarray(random.random()) for name in COVARIANCE_FIELDS}
    return Record(step, layer, "covariance", values, method="gram", point=point, **more)


LEDGER_FIELDS = (
    "input_null_share",
    "input_null_dimension",
    "nonlinearity_removed_share",
    "negative_fraction",
    "dead_fraction",
    "always_on_fraction",
    "information",
    "information_slope",
    "noise",
    "count",
)


def jacobian_record(
    step: int, layer: str, n: int = 6, *, sketch: bool = False, failed: bool = False
) -> Record:
    """Local ranks and a mean spectrum that depend on step and layer alone."""
    random = np.random.default_rng([step, *layer.encode(), 7])
    values = {"spectrum": np.sort(random.random(n, dtype=np.float32))[::-1]}
    for name in ("local_rank", "relative_local_rank"):
        low, mean, high = np.sort(random.random(3)) * n
        ends = {"": mean, "_std": (high - low) / 3, "_min": low, "_max": high}
        values |= {f"{name}{end}": np.asarray(value) for end, value in ends.items()}
    for name, value in (("eps", 0.01), ("relative_eps", 0.1), ("samples", 32.0)):
        values[name] = np.asarray(value)
    values["directions"] = np.asarray(float(n))
    if failed:
        values = {name: np.full_like(value, np.nan) for name, value in values.items()}
    return Record(
        step,
        layer,
        "local_rank",
        values,
        status="no method serves" if failed else "ok",
        method="forward",
        point="jacobian",
        marks=("lower_bound",) if sketch else (),
    )


def ledger_record(step: int, layer: str) -> Record:
    random = np.random.default_rng([step, *layer.encode(), 8])
    values = {name: np.asarray(random.random()) for name in LEDGER_FIELDS}
    return Record(step, layer, "ledger", values, point="ledger")


def step_records(step: int, layers: Sequence[str], n: int = 8) -> list[Record]:
    """What one step records of all layers, at three points."""
    return [
        run_record(step, logged_step=step, seconds=0.5, overhead=0.01),
        *(
            record
            for layer in layers
            for record in (
                weight_record(step, layer, n),
                covariance_record(step, layer, "input", n),
                covariance_record(step, layer, "output", n),
            )
        ),
    ]


def write_run(
    log_dir: Path,
    steps: Sequence[int],
    layers: Sequence[str] = ("fc1", "fc2"),
    n: int = 8,
    **options: Any,
) -> None:
    """Write a run and close it."""
    sink = TensorBoardSink(log_dir, **options)
    for step in steps:
        meta = [meta_record(dict.fromkeys(layers, n), step)] if step == steps[0] else []
        sink.write([*meta, *step_records(step, layers, n)])
    sink.close()


class Loader:
    """One of TensorBoard's readers, behind the interface that its plugins use."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._context = context.RequestContext()

    def tensors(
        self, plugin: str, run: str = "svdhooks"
    ) -> dict[str, tuple[list[int], list[NDArray[Any]]]]:
        """Tag -> steps and values."""
        found = self._provider.read_tensors(
            self._context,
            experiment_id="",
            plugin_name=plugin,
            downsample=100_000,
            run_tag_filter=provider_types.RunTagFilter(runs=[run]),
        )
        return {
            tag: ([d.step for d in data], [d.numpy for d in data])
            for tag, data in found.get(run, {}).items()
        }

    def contents(self, plugin: str, run: str = "svdhooks") -> dict[str, bytes]:
        """Tag -> what the plugin is told of it."""
        found = self._provider.list_tensors(
            self._context, experiment_id="", plugin_name=plugin
        )
        return {tag: s.plugin_content for tag, s in found.get(run, {}).items()}

    def scalars(
        self, run: str = "svdhooks"
    ) -> dict[str, tuple[list[int], list[float]]]:
        """Tag -> steps and values."""
        found = self._provider.read_scalars(
            self._context,
            experiment_id="",
            plugin_name="scalars",
            downsample=100_000,
            run_tag_filter=provider_types.RunTagFilter(runs=[run]),
        )
        return {
            tag: ([d.step for d in data], [d.value for d in data])
            for tag, data in found.get(run, {}).items()
        }


@contextmanager
def python_loader(log_dir: Path, run: str = "svdhooks") -> Iterator[Loader]:
    """What ``tensorboard --load_fast=false`` reads."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer(
        tensor_size_guidance={"svdhooks": 0, "svdhooks_full": 0}
    )
    multiplexer.AddRunsFromDirectory(str(log_dir))
    multiplexer.Reload()
    yield Loader(
        multiplexer_provider.MultiplexerDataProvider(multiplexer, str(log_dir))
    )


@contextmanager
def data_server(log_dir: Path, run: str = "svdhooks") -> Iterator[Loader]:
    """What ``tensorboard`` reads: the Rust data server."""
    with tempfile.TemporaryDirectory() as directory:
        port_file = Path(directory) / "port"
        server = subprocess.Popen(
            [
                server_ingester.get_server_binary().path,
                f"--logdir={log_dir}",
                "--reload=once",
                "--samples-per-plugin=svdhooks=all,scalars=all,histograms=all",
                "--port=0",
                f"--port-file={port_file}",
                "--die-after-stdin",
            ],
            stdin=subprocess.PIPE,
        )
        try:
            _wait(lambda: port_file.exists() and port_file.read_text().endswith("\n"))
            ingester = server_ingester.ExistingServerDataIngester(
                f"localhost:{int(port_file.read_text())}",
                channel_creds_type=grpc_util.ChannelCredsType.LOCAL,
            )
            loader = Loader(ingester.data_provider)
            _wait_until_read(loader, run)
            yield loader
        finally:
            server.communicate(timeout=10)  # the server dies with its standard input


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "TensorBoard's data server does not answer"
        time.sleep(0.02)


def _wait_until_read(loader: Loader, run: str) -> None:
    """Wait until the server has read the files, which it does while it answers."""
    sizes: list[int] = []

    def stable() -> bool:
        others = loader.scalars("."), loader.scalars(run.rpartition("/")[0] or ".")
        found = loader.tensors("svdhooks", run), loader.scalars(run), *others
        sizes.append(sum(len(steps) for tags in found for steps, _ in tags.values()))
        return len(sizes) > 4 and sizes[-1] > 0 and len(set(sizes[-4:])) == 1

    _wait(stable)


LOADERS: dict[str, Callable[..., Any]] = {
    "python": python_loader,
    "data server": data_server,
}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk on which no file grows beyond ``size``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
