"""The process that computes with torch for the tab: ``python -m`` this module.

Reads one JSON object a line; writes, for each, a status, a length, and a bundle or an error.
Ends when its input does, which it does with TensorBoard, whatever it is computing then.
"""

import json
import os
import queue
import signal
import sys
import threading
from typing import Any

from svdhooks.analysis.reporting import graphs
from svdhooks.analysis.reporting.gathering import Gathering
from svdhooks.analysis.reporting.reading import Room
from svdhooks.dashboard.answers import bundled
from svdhooks.dashboard.torch_side import HEAD
from svdhooks.runlog import RunLog
from svdhooks.web.page import PageData

_ENOUGH = 2**40


def answer(asked: dict[str, Any]) -> tuple[int, bytes]:
    """Compute something.

    Args:
        asked: ``directory``, ``step``, and ``source`` and ``target``, or ``layer``.

    Returns:
        HTTP status, and a bundle or an error.
    """
    try:
        page = _computed(asked)
    except (KeyError, ValueError, TypeError, OSError) as error:
        what = str(error.args[0]) if error.args else type(error).__name__
        remedy = (
            "Record vectors with quantities=[…, svdhooks.WeightVectors(k=None), "
            "svdhooks.PointMoments()], or choose another step or layer."
        )
        return 404, json.dumps({"error": what, "remedy": remedy}).encode()
    except Exception as error:  # noqa: BLE001  the process serves the next request
        what = f"{type(error).__name__}: {error}"
        remedy = "Choose another step or layer."
        return 500, json.dumps({"error": what, "remedy": remedy}).encode()
    return 200, bundled(page)


def _computed(asked: dict[str, Any]) -> PageData:
    log = RunLog(asked["directory"])
    page = PageData()
    gathering = Gathering(log, page, Room(_ENOUGH))
    step = asked.get("step")
    if "layer" in asked:
        entry: Any = graphs.one_descrambled(gathering, asked["layer"], step)
        page.tree = {"v": 1, "descrambled": entry}
    else:
        entry = graphs.one_pair(gathering, asked["source"], asked["target"], step)
        page.tree = {"v": 1, "pair": entry}
    return page


def main() -> None:
    """Serve until there is nothing more to read."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # of Ctrl-C, TensorBoard tells
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not stand among the answers
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_take, args=(lines,), daemon=True).start()
    while True:
        status, content = answer(json.loads(lines.get()))
        out.write(HEAD.pack(status, len(content)) + content)
        out.flush()


def _take(lines: "queue.SimpleQueue[bytes]") -> None:
    """Take requests; nobody waits for the last answer when there are no more."""
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
