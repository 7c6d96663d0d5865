"""Answers to the page: JSON, bundles of arrays, files, and errors that say what to do.

A bundle is ``u32`` (little-endian), the length of what follows it; JSON, ``{"tree": …,
"manifest": [{"dtype", "shape"}, …]}``, in whose tree ``{"$array": i}`` stands for the array
``i``; and the arrays, one after another, each with the first bytes of all its items first,
then all second bytes, and so on: what ``arraysOf`` and ``joined`` of ``packed.js`` read. It
travels as gzip, which browsers undo.
"""

import gzip
import logging
import struct
from collections.abc import Callable
from typing import Any

from tensorboard.backend import http_util
from werkzeug.wrappers import Request, Response

from svdhooks.web.packing import json_text, laid_out
from svdhooks.web.page import PageData

BUNDLE = "application/octet-stream"
_JSON = "application/json"
_LEVEL = 1
"""Of gzip: the network is mostly a loop, and time counts."""

_logger = logging.getLogger(__name__)


class RequestError(Exception):
    """A request that cannot be answered.

    Args:
        code: HTTP status.
        what: What is wrong.
        remedy: What to do about it.
    """

    def __init__(self, code: int, what: str, remedy: str) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.remedy = remedy


def bundled(data: PageData) -> bytes:
    """A bundle, before gzip."""
    manifest, parts = laid_out(data.arrays)
    head = json_text({"tree": data.tree, "manifest": manifest}).encode()
    return b"".join([struct.pack("<I", len(head)), head, *parts])


def zipped(content: bytes) -> bytes:
    """Content as it travels."""
    return gzip.compress(content, _LEVEL, mtime=0)


def bundle(request: Request, content: bytes) -> Response:
    """Answer with a bundle that is gzipped already."""
    return http_util.Respond(request, content, BUNDLE, content_encoding="gzip")


def plain(request: Request, tree: Any, code: int = 200) -> Response:
    """Answer with JSON; what is not finite is null."""
    headers = [("Allow", "GET, HEAD")] if code == 405 else None
    return http_util.Respond(
        request, json_text(tree), _JSON, code=code, headers=headers
    )


def answering(
    handler: Callable[[Request], Response],
) -> Callable[[dict[str, Any], Any], Any]:
    """A route: whatever happens, the page gets an answer that it can show.

    Args:
        handler: Makes the answer; may raise `RequestError`.

    Returns:
        A WSGI application.
    """

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        request = Request(environ)
        return _answer(handler, request)(environ, start_response)

    return application


def _answer(handler: Callable[[Request], Response], request: Request) -> Response:
    try:
        if request.method not in {"GET", "HEAD"}:
            raise RequestError(405, f"Found {request.method}.", "Ask with GET.")
        return handler(request)
    except RequestError as refused:
        tree = {"error": refused.what, "remedy": refused.remedy}
        return plain(request, tree, refused.code)
    except Exception as error:
        _logger.exception("svdhooks could not answer %s", request.path)
        what = f"{type(error).__name__}: {error}"
        remedy = "Reload the page. TensorBoard's terminal has the details."
        return plain(request, {"error": what, "remedy": remedy}, 500)


def argument(request: Request, name: str) -> str:
    """An argument of the query that must be there.

    Args:
        request: The request.
        name: Of the argument.

    Returns:
        Its value.

    Raises:
        RequestError: If it is missing.
    """
    value = request.args.get(name)
    if value is None:
        raise RequestError(400, f"The argument {name!r} is missing.", f"Add {name}=….")
    return value


def number(request: Request, name: str, low: int, high: int) -> int | None:
    """A whole number of the query, brought between two bounds; None if it is missing.

    Args:
        request: The request.
        name: Of the argument.
        low: The smallest.
        high: The largest.

    Returns:
        The number.

    Raises:
        RequestError: If it is none.
    """
    text = request.args.get(name)
    if text is None or text == "":
        return None
    try:
        return min(max(int(text[:20]), low), high)
    except ValueError:
        what = f"Found {name}={text[:40]!r}, expected a whole number."
        raise RequestError(400, what, f"Change {name}=….") from None
