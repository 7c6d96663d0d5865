"""A real TensorBoard in a process of its own, and its tab in a browser."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.browser.chromium import Tab

_PATIENCE = 60.0
_FRAME = """(function find(root) {
  for (const node of root.querySelectorAll('*')) {
    if (node.tagName === 'IFRAME') return node;
    const inside = node.shadowRoot && find(node.shadowRoot);
    if (inside) return inside;
  }
  return null;
})(document)"""
OTHERS = ("Three.js", "WebGL", "willReadFrequently")
"""Words of warnings that TensorBoard's own page makes, and tests that read canvases."""


@contextmanager
def tensorboard(logdir: Path, *arguments: str) -> Iterator[str]:
    """TensorBoard, found by its entry point as a user's; gives its address."""
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={logdir}"]
    output = logdir.parent / f"{logdir.name}-tensorboard.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--port=0", *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield _address(process, output)
    finally:
        process.terminate()
        process.wait(timeout=_PATIENCE)


def _address(process: "subprocess.Popen[bytes]", output: Path) -> str:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"at (http://\S+?)/? \(Press", output.read_text())
        if found:
            return found[1]
        time.sleep(0.05)
    raise TimeoutError(f"TensorBoard did not start: {output.read_text()[-2000:]}")


class Frame:
    """The tab inside TensorBoard's page.

    Args:
        tab: The browser's tab.
        address: TensorBoard's.
    """

    def __init__(self, tab: Tab, address: str) -> None:
        self.tab, self.address = tab, address

    def open(self, fragment: str = "", *, width: int = 1280, height: int = 900) -> None:
        """Open TensorBoard with our tab, and wait until that is drawn."""
        self.tab.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.tab.problems.clear()
        self.tab.send("Page.navigate", url="about:blank")
        self.tab.send("Page.navigate", url=f"{self.address}/#svdhooks{fragment}")
        self.wait("document.querySelector('#svdhooks')?.dataset.drawn")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the frame."""
        return self.tab.evaluate(_inside(expression))

    def wait(self, expression: str) -> Any:
        """Evaluate in the frame until the answer is true; it is returned."""
        return self.tab.wait(_inside(expression))

    @property
    def problems(self) -> list[str]:
        """What went wrong, but for what TensorBoard's own page says."""
        return [p for p in self.tab.problems if not any(w in p for w in OTHERS)]


def _inside(expression: str) -> str:
    code = json.dumps(expression)
    return f"(() => {{ const f = {_FRAME}; return f?.contentWindow?.eval({code}); }})()"
