"""The modules of the tab: all are there, all come at once, all are asked for by us alone."""

import re
from importlib.resources import files

FOLDERS = [
    files(f"svdhooks.{package}").joinpath("static") for package in ("dashboard", "web")
]
IMPORT = re.compile(r'\bfrom "\./([^"]+\.js)"')


def text_of(name: str) -> str:
    found = [
        folder.joinpath(name) for folder in FOLDERS if folder.joinpath(name).is_file()
    ]
    assert len(found) == 1, f"{name} is in {len(found)} folders"
    return found[0].read_text(encoding="utf-8")


def needed(entry: str) -> set[str]:
    """What a module imports, and what that imports."""
    found: set[str] = set()
    wanted = [entry]
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            wanted += IMPORT.findall(text_of(name))
    return found


def listed() -> set[str]:
    """The modules that the page asks for before any of them names another."""
    lists = re.findall(r'\.\.\."([^"]+)"\.split', text_of("index.js"))
    return {f"{name}.js" for text in lists for name in text.split()}


def test_all_modules_come_at_once() -> None:
    first = needed("index.js")
    assert listed() | first == needed("tab.js") | first
    assert "store.js" in first
    assert "chart.js" not in first


def test_nothing_is_loaded_from_elsewhere() -> None:
    for name in needed("index.js") | needed("tab.js"):
        text = text_of(name)
        assert not re.findall(r'(?:\bfrom |\bimport\()"(?!\./)', text), name
        if name != "uPlot.esm.js":
            assert "innerHTML" not in text, name
            assert "eval(" not in text, name
