"""A real ``tensorboard`` with our tab in it, and without."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

import svdhooks
from svdhooks.analysis import descrambled, spectral_graph
from svdhooks.runlog import RunLog
from tests.logs import write_run
from tests.unit.dashboard.serving import files_page, unbundled

pytestmark = pytest.mark.slow

# TensorBoard as its script starts it; a line of ours may come first
START = "import sys; {first}; from tensorboard.main import run_main; run_main()"


class Served:
    """A TensorBoard that runs.

    Attributes:
        url: Where.
        log: The file that has its output.
    """

    def __init__(self, url: str, log: Path) -> None:
        self.url, self.log = url, log

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and content."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def json(self, path: str) -> Any:
        return json.loads(self.get(path)[1])


@contextmanager
def tensorboard(tmp_path: Path, *flags: str, first: str = "pass") -> Iterator[Served]:
    log = tmp_path / "tensorboard.log"
    command = [sys.executable, "-c", START.format(first=first)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--port", "0", *flags],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            deadline = time.monotonic() + 60
            while not (found := re.search(r"at (http://\S+)", log.read_text())):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield Served(found[1].rstrip("/"), log)
        finally:
            process.terminate()
            process.wait(timeout=30)


PLUGIN = "/data/plugin/svdhooks/"


@pytest.mark.parametrize("fast", ["true", "false"])
def test_the_tab_is_there_and_answers(tmp_path: Path, fast: str) -> None:
    name = "a <b>&c/d"
    write_run(tmp_path / "logs" / name, range(0, 50, 10))
    flags = ("--logdir", str(tmp_path / "logs"), "--load_fast", fast)
    with tensorboard(tmp_path, *flags, "--path_prefix", "/pre/fix") as served:
        listing = served.json("/data/plugins_listing")
        ours = listing["svdhooks"]
        assert ours["enabled"]
        assert ours["tab_name"] == "svdhooks"
        path = "/pre/fix/data/plugin/svdhooks/static/index.js"
        assert ours["loading_mechanism"] == {"type": "IFRAME", "module_path": path}
        assert {"scalars", "histograms", "text", "custom_scalars"} <= set(listing)
        (row,) = served.json(f"{PLUGIN}runs")["runs"]
        assert (row["name"], row["records"], row["local"]) == (name, 5, True)
        status, content = served.get(f"{PLUGIN}overview?run={quote(name, safe='')}")
        assert status == 200
        tree, page = unbundled(content)
        steps = page.array(tree["run"]["steps"])
        assert steps.tolist() == [0, 10, 20, 30, 40]
        assert served.get(f"{PLUGIN}static/style.css")[0] == 200
        assert served.get(f"{PLUGIN}static/../plugin.py")[0] == 404
        assert served.get(f"{PLUGIN}static/%2e%2e%2fplugin.py")[0] == 404
        status, content = served.get(f"{PLUGIN}overview?run=none")
        assert status == 404
        assert json.loads(content)["remedy"]
    assert "svdhooks" not in served.log.read_text().replace(str(tmp_path), "")


def test_groups_of_directories(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "run", range(3))
    write_run(tmp_path / "b", range(4))
    spec = f"first:{tmp_path / 'a'},second:{tmp_path / 'b'}"
    with tensorboard(tmp_path, "--logdir_spec", spec) as served:
        rows = served.json(f"{PLUGIN}runs")["runs"]
        assert {r["name"]: r["records"] for r in rows} == {"first/run": 3, "second": 4}


def test_without_runs_the_tab_is_there_and_asleep(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with tensorboard(tmp_path, "--logdir", str(tmp_path / "logs")) as served:
        assert not served.json("/data/plugins_listing")["svdhooks"]["enabled"]
        assert served.json(f"{PLUGIN}runs")["help"]["code"]


@pytest.mark.parametrize(
    "missing", ["svdhooks.dashboard.plugin", "svdhooks.runlog.log"]
)
def test_a_tab_that_cannot_be_made_leaves_tensorboard(
    tmp_path: Path, missing: str
) -> None:
    """As if an import of ours failed: one line, and all else is there."""
    write_run(tmp_path / "logs", range(3))
    first = f"sys.modules[{missing!r}] = None"
    with tensorboard(
        tmp_path, "--logdir", str(tmp_path / "logs"), first=first
    ) as served:
        listing = served.json("/data/plugins_listing")
        assert "svdhooks" not in listing
        assert {"scalars", "histograms", "hparams"} <= set(listing)
        assert served.get("/")[0] == 200


def test_tensorboard_never_loads_torch(tmp_path: Path) -> None:
    """Neither to find the tab nor to answer all that needs no vectors."""
    write_run(tmp_path / "run", range(0, 50, 10))
    code = (
        "import sys\n"
        "from importlib.metadata import entry_points\n"
        "(point,) = entry_points(group='tensorboard_plugins', name='svdhooks')\n"
        "loader = point.load()()\n"
        "assert not any(m.startswith(('svdhooks.runlog', 'numpy')) for m in sys.modules)\n"
        "from tensorboard.plugins.base_plugin import TBContext\n"
        "from werkzeug.test import Client\n"
        f"plugin = loader.load(TBContext(logdir={str(tmp_path)!r}))\n"
        "apps = plugin.get_plugin_apps()\n"
        "for ask in ('runs', 'overview?run=run', 'layer?run=run&layer=fc1',\n"
        "            'pairs?run=run', 'about', 'static/style.css'):\n"
        "    route = '/' + ask.partition('?')[0]\n"
        "    app = apps.get(route) or apps['/static/*']\n"
        "    answer = Client(app).get('/data/plugin/svdhooks/' + ask)\n"
        "    assert answer.status_code == 200, (ask, answer.get_data())\n"
        "unwanted = {'torch', 'lightning', 'pandas', 'matplotlib', 'transformers'}\n"
        "assert not unwanted & set(sys.modules), unwanted & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_needs_torch_is_done_elsewhere(tmp_path: Path) -> None:
    """Pairs and descrambled weights are those of the analysis; the process is kept."""
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    moments = (svdhooks.WeightVectors(k=None), svdhooks.PointMoments())
    quantities = ["weight_spectrum", *moments]
    with svdhooks.watch(
        net,
        tmp_path / "run",
        every=1,
        quantities=quantities,
        probe=torch.randn(64, 6),
        max_overhead=None,
    ) as recorder:
        for _ in range(3):
            with torch.no_grad():
                net[0].weight += 0.1
            recorder.step()
    log = RunLog(tmp_path / "run")
    page = files_page(tmp_path)
    told, _ = page.bundle("pairs", run="run")
    (pair,) = told["pairs"]
    assert len(told["vector_steps"]) >= 2
    step = told["vector_steps"][-1]
    source, target = pair["source"], pair["target"]
    query = {"run": "run", "source": source, "target": target}
    found, arrays = page.bundle("pair", **query, step=step)
    expected = spectral_graph(log, step).pairs[0]
    np.testing.assert_array_equal(
        arrays.array(found["pair"]["adjacency"]), expected.adjacency.astype(np.float32)
    )
    side = page.plugin._torch_side
    process = side._process
    layer = told["descrambled"][0]
    found, arrays = page.bundle("descrambled", run="run", layer=layer)
    assert side._process is process
    whole = descrambled(log, layer)
    np.testing.assert_array_equal(
        arrays.array(found["descrambled"]["descrambled"]),
        whole.descrambled.astype(np.float32),
    )
    assert page.json("pair", 404, **query, step=10**6)["error"]
    process.kill()  # it comes back
    process.wait()
    assert page.bundle("pair", **query)[0]["pair"]["step"] == step
    side.close()
    assert not side.running


@pytest.mark.parametrize("how", ["interrupted", "left"])
def test_the_process_with_torch_ends_with_tensorboard(how: str) -> None:
    """Even while it computes, and without a word."""
    code = (
        "import sys, time\n"
        "from svdhooks.dashboard import torch_worker\n"
        "def computing(asked):\n"
        "    print('computing', file=sys.stderr, flush=True)\n"
        "    time.sleep(600)\n"
        "torch_worker.answer = computing\n"
        "torch_worker.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"{}\n")
        process.stdin.flush()
        assert process.stderr.readline() == b"computing\n"
        if how == "interrupted":
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)  # closes its input
        assert (out, err) == (b"", b"")
        assert process.returncode == (0 if how == "left" else -signal.SIGINT)
    finally:
        process.kill()
