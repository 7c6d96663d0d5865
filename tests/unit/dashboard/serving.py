"""The plugin asked through WSGI, with either of TensorBoard's readers behind it."""

import gzip
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import numpy as np
from tensorboard.plugins import base_plugin
from werkzeug.test import Client, TestResponse

from svdhooks.dashboard.plugin import SpectraPlugin
from svdhooks.web.page import PageData
from tests.logs import LOADERS

BASE = "/data/plugin/svdhooks/"


class Page:
    """What a page would see: every answer is checked for what all must have.

    Attributes:
        plugin: The plugin.
    """

    def __init__(self, plugin: SpectraPlugin) -> None:
        self.plugin = plugin
        self.apps = plugin.get_plugin_apps()

    def ask(self, route: str, *, method: str = "GET", **query: Any) -> TestResponse:
        """Ask for a route."""
        app = self.apps["/static/*" if route.startswith("static/") else f"/{route}"]
        path = f"{BASE}{route}?{urlencode(query, doseq=True)}"
        headers = {"Accept-Encoding": "gzip"}
        answer = Client(app).open(path, method=method, headers=headers)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        return answer

    def json(self, route: str, code: int = 200, **query: Any) -> Any:
        """The tree of an answer that is JSON."""
        answer = self.ask(route, **query)
        assert answer.status_code == code, content_of(answer)
        assert answer.content_type == "application/json"
        return json.loads(content_of(answer))

    def bundle(self, route: str, **query: Any) -> tuple[dict[str, Any], PageData]:
        """The tree of an answer that is a bundle, and its arrays."""
        answer = self.ask(route, **query)
        assert answer.status_code == 200, content_of(answer)
        assert answer.content_type == "application/octet-stream"
        return unbundled(content_of(answer))


def content_of(answer: TestResponse) -> bytes:
    """The content as it was before it travelled."""
    content = answer.get_data()
    zipped = answer.headers.get("Content-Encoding") == "gzip"
    return gzip.decompress(content) if zipped else content


def unbundled(content: bytes) -> tuple[dict[str, Any], PageData]:
    """A bundle read by its description, not by our own code."""
    (size,) = struct.unpack_from("<I", content)
    head = json.loads(content[4 : 4 + size])
    at, arrays = 4 + size, []
    for entry in head["manifest"]:
        dtype = np.dtype(entry["dtype"]).newbyteorder("<")
        count = int(np.prod(entry["shape"], dtype=int))
        planes = np.frombuffer(content, np.uint8, count * dtype.itemsize, at)
        whole = planes.reshape(dtype.itemsize, count).T.tobytes()
        arrays.append(np.frombuffer(whole, dtype).reshape(entry["shape"]))
        at += len(planes)
    assert at == len(content)
    return head["tree"], PageData(head["tree"], arrays)


def flags(logdir: object = "", spec: object = "") -> SimpleNamespace:
    """The flags that the plugin looks at."""
    return SimpleNamespace(logdir=str(logdir), logdir_spec=str(spec))


def context(
    logdir: object = "", spec: object = "", provider: Any = None
) -> base_plugin.TBContext:
    """What TensorBoard tells a plugin: see ``program.py``, which joins the two flags."""
    return base_plugin.TBContext(
        logdir=str(logdir) or str(spec),
        flags=flags(logdir, spec),
        data_provider=provider,
    )


def files_page(logdir: object, spec: object = "") -> Page:
    """A page with files alone; files are looked at anew for each answer."""
    return Page(SpectraPlugin(context(logdir, spec), rest=0.0))


@contextmanager
def provided_page(reader: str, log_dir: Path, run: str = "run") -> Iterator[Page]:
    """A page whose files are not on this machine: TensorBoard's data alone."""
    with LOADERS[reader](log_dir, f"{run}/svdhooks") as loader:
        made = context("s3://elsewhere/logs", provider=loader._provider)
        yield Page(SpectraPlugin(made, rest=0.0))
