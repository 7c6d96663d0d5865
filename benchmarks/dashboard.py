"""The server side of the TensorBoard tab: how long each answer takes, and how large it is.

The log is one of the sink: layers in blocks, three spectra of each, measures that wander,
a tenth of the covariances marked as limited by their samples. The plugin is asked through
WSGI, without a network between. Medians; CPU time is that of the thread that answers, which
other work on the machine does not change.

Usage: python benchmarks/dashboard.py [--layers 100] [--records 2000] [--log DIR]
"""

import argparse
import gzip
import json
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode

import numpy as np
from _bench import show
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.test import Client

from svdhooks.dashboard.plugin import SpectraPlugin
from svdhooks.record import Record
from svdhooks.sinks.tensorboard import TensorBoardSink

N = 256
WEIGHT = (
    *("stable_rank", "spectral_norm", "effective_rank", "numerical_rank"),
    *("participation_ratio", "spectral_entropy", "condition_number", "frobenius_norm"),
    *("nuclear_ratio", "noise_floor"),
)
COVARIANCE = (
    *("effective_rank", "stable_rank", "participation_ratio", "numerical_rank"),
    *("variance_effective_rank", "spectral_entropy", "total_variance", "mean_norm"),
    *("dead_fraction", "largest_eigenvalue", "rank_limit", "count"),
)
FIELDS = {"weight": WEIGHT, "input": COVARIANCE, "output": COVARIANCE}


def write_log(log_dir: Path, layers: int, records: int) -> None:
    """Write a log with values that wander, as those of a training do."""
    names = [f"blocks.{i // 4}.part{i % 4}" for i in range(layers)]
    random = np.random.default_rng(0)
    same = {"count": np.asarray(512.0), "rank_limit": np.asarray(float(N))}
    sink = TensorBoardSink(log_dir, max_log_gb=None)
    walks = {p: np.full((layers, len(f)), 100.0) for p, f in FIELDS.items()}
    decay = {p: random.uniform(0.5, 1.5, layers) for p in FIELDS}
    for step in range(0, 100 * records, 100):
        loss = 2 * np.exp(-step / 5e4) + 0.1 * random.random()
        run = {"seconds": 0.2, "overhead": 0.008, "loss": loss, "logged_step": step}
        made = [Record(step, "", "run", {k: np.asarray(v) for k, v in run.items()})]
        if step == 0:
            made.insert(0, _meta(names))
        for point, fields in FIELDS.items():
            walks[point] *= np.exp(0.01 * random.standard_normal(walks[point].shape))
            decay[point] *= np.exp(0.003 * random.standard_normal(layers))
            noise = 1 + 0.01 * random.random((layers, N), dtype=np.float32)
            spectra = np.arange(1, N + 1) ** -decay[point][:, None] * noise
            spectra = -np.sort(-spectra.astype(np.float32), axis=1)
            for i, name in enumerate(names):
                values = dict(
                    zip(fields, map(np.asarray, walks[point][i]), strict=True)
                )
                values |= {
                    name: value for name, value in same.items() if name in values
                }
                values["spectrum"] = spectra[i]
                quantity = "weight_spectrum" if point == "weight" else "covariance"
                marks = ("sample_limited",) if point != "weight" and not i % 10 else ()
                made.append(
                    Record(
                        step,
                        name,
                        quantity,
                        values,
                        method="gram",
                        point=point,
                        marks=marks,
                    )
                )
        sink.write(made)
    sink.close()


def _meta(names: list[str]) -> Record:
    rows = [
        {
            "name": name,
            "kind": "Linear",
            "shape": [N, N],
            "rank_limit": N,
            "points": {"input": N, "output": N},
        }
        for name in names
    ]
    meta = {"schema": 1, "svdhooks": "0", "layers": rows, "skipped": [], "settings": {}}
    return Record(0, "", "meta", {"json": np.array(json.dumps(meta))})


class Asked:
    """The plugin asked for routes, each answer timed.

    Attributes:
        rows: What was asked, CPU seconds, seconds, bytes as they travel, bytes.
    """

    def __init__(self, logdir: Path) -> None:
        flags = SimpleNamespace(logdir=str(logdir), logdir_spec="")
        plugin = SpectraPlugin(TBContext(logdir=str(logdir), flags=flags))
        self.apps = plugin.get_plugin_apps()
        self.rows: list[tuple[str, float, float, int, int]] = []

    def __call__(self, what: str, route: str, *queries: dict[str, object]) -> dict:
        """Ask once for each query; the median is kept, and the last tree returned."""
        seconds, cpu, content = [], [], b""
        for query in queries:
            path = f"/data/plugin/svdhooks/{route}?{urlencode(query)}"
            begin, busy = time.perf_counter(), time.thread_time()
            answer = Client(self.apps[f"/{route}"]).get(
                path, headers={"Accept-Encoding": "gzip"}
            )
            seconds.append(time.perf_counter() - begin)
            cpu.append(time.thread_time() - busy)
            content = answer.get_data()
            if answer.status_code != 200:
                raise RuntimeError(f"{path}: {answer.status}")
        sent = len(content)
        zipped = answer.headers.get("Content-Encoding") == "gzip"
        content = gzip.decompress(content) if zipped else content
        times = statistics.median(cpu), statistics.median(seconds)
        self.rows.append((what, *times, sent, len(content)))
        if answer.mimetype == "application/json":
            return json.loads(content)
        size = int.from_bytes(content[:4], "little")
        return json.loads(content[4 : 4 + size])["tree"]


def measure(logdir: Path, rounds: int) -> list[tuple[str, float, float, int, int]]:
    """Ask what a page asks, from its first picture on."""
    ask = Asked(logdir)
    run = {"run": ask("runs, opens the log", "runs", {})["runs"][0]["name"]}
    tree = ask("overview, the first", "overview", run)
    names = [row["name"] for row in tree["run"]["layers"]]
    layers = [run | {"layer": name} for name in names[: rounds + 1]]
    ask("layer, the first", "layer", layers[0])
    ask("layer, another", "layer", *layers[1:])
    ask("layer, 1,000 steps", "layer", layers[0] | {"records": 1000})
    known = run | {"known": tree["token"]}
    deadline = time.monotonic() + 120
    while "run" not in (told := ask("", "overview", known)):
        ask.rows.pop()
        if time.monotonic() > deadline:
            raise RuntimeError("The rules did not come to an end.")
        time.sleep(0.2)
    ask.rows[-1] = ("overview, alarms alone", *ask.rows[-1][1:])
    known = run | {"known": told["token"]}
    ask("overview, token known", "overview", *[known] * (10 * rounds))
    ask("runs, nothing new", "runs", *[{}] * rounds)
    return ask.rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=100)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--log", type=Path, default=None, help="kept, and used again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        logdir = options.log or Path(name)
        if not (logdir / "run").is_dir():
            write_log(logdir / "run", options.layers, options.records)
        rows = measure(logdir, options.rounds)
    show(
        f"{options.records} records x {options.layers} layers",
        [
            (what, *(f"{1e3 * t:.1f}" for t in ts), f"{a / 1e3:.1f}", f"{b / 1e3:.1f}")
            for what, *ts, a, b in rows
        ],
        ("what", "CPU ms", "wall ms", "kB sent", "kB"),
    )


if __name__ == "__main__":
    main()
