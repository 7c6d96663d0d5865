"""One self-contained HTML page: style, modules and data inside; nothing is loaded."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from svdhooks.web.packing import json_text, packed
from svdhooks.web.page import PageData

ENTRY = "report.js"
_PREFIX = "svdhooks/"
_IMPORT = re.compile(r'^(import\b[^"]*"|export\b[^"]*\bfrom ")\./([^"/]+\.js)"', re.M)
_STYLES = ("uPlot.min.css", "style.css")
_LONGEST_TITLE = 300


def embedded_page(title: str, data: PageData) -> str:
    """Make the page of a report.

    It opens from a file and offline: the modules are ``data:`` URLs of an import map, the
    arrays one deflated blob. A policy in the page forbids it to load anything or to run
    any script but its own. Whatever a log holds is shown as text.

    Args:
        title: Of the document.
        data: What is shown.

    Returns:
        HTML, to be written as UTF-8.
    """
    manifest, blob = packed(data.arrays)
    importmap, boot = _importmap(), _boot()
    return rendered(
        "report.html",
        title=utf8(title)[:_LONGEST_TITLE],
        policy=policy(importmap, boot),
        style=Markup("\n".join(static(name) for name in _STYLES)),
        importmap=Markup(importmap),
        boot=Markup(boot),
        tree=Markup(json_text({"tree": data.tree, "manifest": manifest})),
        blob=Markup(blob),
        runs=[_told(run) for run in data.tree.get("runs", [])],
    )


def modules(entry: str = ENTRY) -> dict[str, str]:
    """The ES modules that one needs, by file name: itself and what they import."""
    found: dict[str, str] = {}
    wanted = [entry]
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = static(name)
            wanted += [match[1] for match in _IMPORT.findall(found[name])]
    return found


@cache
def _importmap() -> str:
    """Bare names of the modules, each with its text as a ``data:`` URL."""
    urls = {}
    for name, text in sorted(modules().items()):
        bare = _IMPORT.sub(rf'\1{_PREFIX}\2"', text)
        code = base64.b64encode(bare.encode()).decode("ascii")
        urls[_PREFIX + name] = f"data:text/javascript;base64,{code}"
    return json_text({"imports": urls})


def _boot() -> str:
    """The one inline script: starts the page, and says it if that fails."""
    return f"""
import {{ start }} from "{_PREFIX}{ENTRY}";
start().catch((error) => {{
  const line = document.createElement("p");
  line.className = "plain";
  line.textContent = `This page could not be drawn: ${{error.message}}`;
  document.getElementById("svdhooks").prepend(line);
  throw error;
}});
"""


def policy(*scripts: str) -> str:
    """Own scripts, by their hash, and the modules; nothing else runs or is loaded."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = " ".join(
        f"'sha256-{base64.b64encode(d).decode('ascii')}'" for d in digests
    )
    return (
        f"default-src 'none'; script-src {hashes} data:; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _told(run: dict[str, Any]) -> dict[str, Any]:
    """A run's verdict, for a browser without scripts."""
    verdict = run.get("verdict") or {}
    return {
        "name": utf8(run.get("name", ""))[:_LONGEST_TITLE],
        "headline": utf8(verdict.get("headline", "")),
        "sentences": [utf8(text) for text in verdict.get("sentences", [])],
    }


def utf8(text: object) -> str:
    """Text without the lone surrogates of broken file names."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


def rendered(template: str, **values: Any) -> str:
    """A file in ``templates`` with values in their places, text escaped."""
    environment = Environment(autoescape=True)
    return environment.from_string(text_of("templates", template)).render(values)


@cache
def static(name: str) -> str:
    """The text of a file in ``static``."""
    return text_of("static", name)


def text_of(*parts: str) -> str:
    """The text of a file of this package."""
    return files("svdhooks.web").joinpath(*parts).read_text(encoding="utf-8")
