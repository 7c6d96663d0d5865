"""A page is one file: names in it are text, arrays come out as they went in."""

import base64
import json
import re
import zlib
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from svdhooks.web.embedding import embedded_page, modules
from svdhooks.web.packing import json_text, packed
from svdhooks.web.page import PageData
from tests.unit.web.hostile import HOSTILE
from tests.unit.web.made import made


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text by element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: dict[str, str] = {}
        self._inside: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._inside and self._inside[-1] == "script":
            attrs = self.tags[-1][1]
            name = attrs.get("id") or attrs.get("type") or ""
            self.scripts[name] = self.scripts.get(name, "") + data
        elif self._inside and self._inside[-1] != "style":
            self.text.append(data)


def unpacked(page: Page) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """What a page carries, read by hand and not by the code that wrote it."""
    carried = json.loads(page.scripts["svdhooks-tree"])
    data = zlib.decompress(base64.b64decode(page.scripts["svdhooks-arrays"]))
    arrays, at = [], 0
    for entry in carried["manifest"]:
        kind = np.dtype(entry["dtype"]).newbyteorder("<")
        count = int(np.prod(entry["shape"], dtype=int))
        size = count * kind.itemsize
        items = (
            [bytes(data[at + i : at + size : count]) for i in range(count)]
            if count
            else []
        )
        arrays.append(np.frombuffer(b"".join(items), kind).reshape(entry["shape"]))
        at += size
    assert at == len(data)
    return carried["tree"], arrays


def test_arrays_come_out_as_they_went_in() -> None:
    page = PageData()
    rng = np.random.default_rng(0)
    for array in (
        rng.standard_normal((7, 5)).astype(np.float32),
        np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32),
        np.array([[2**31 - 1, -(2**31)], [0, 1]], np.int32),
        np.arange(256, dtype=np.uint8).reshape(2, 4, 32),
        np.empty((0, 3), np.float32),
    ):
        page.add(array)
    page.tree = {"runs": [], "title": "arrays"}
    _, arrays = unpacked(Page(embedded_page("arrays", page)))
    for found, given in zip(arrays, page.arrays, strict=True):
        assert found.shape == given.shape
        assert found.tobytes() == given.astype(given.dtype.newbyteorder("<")).tobytes()


def test_the_tree_comes_out_as_it_went_in() -> None:
    page = made(hostile=True, runs=2)
    tree, _ = unpacked(Page(embedded_page("tree", page)))
    assert tree == json.loads(json.dumps(page.tree))


def test_hostile_names_never_become_markup() -> None:
    tame, hostile = (
        Page(embedded_page("t", made(10, hostile=h))) for h in (False, True)
    )
    tags = [(tag, sorted(attrs)) for tag, attrs in tame.tags]
    spoiled = [(tag, sorted(attrs)) for tag, attrs in hostile.tags]
    sentences = len(HOSTILE) - 2
    at = tags.index(("li", []))
    assert spoiled == tags[:at] + [("li", [])] * sentences + tags[at:]
    assert "window.hacked" in "".join(hostile.text)
    assert not any(
        "hacked" in text for name, text in hostile.scripts.items() if "tree" not in name
    )


def test_the_title_is_text() -> None:
    html = embedded_page(HOSTILE[3], made(3, 3))
    page = Page(html)
    assert HOSTILE[3] in page.text
    assert html.count("<script") == 4
    assert html.count("</script") == 4


@pytest.mark.parametrize("name", HOSTILE)
def test_json_within_a_script_ends_nowhere(name: str) -> None:
    text = json_text({name: [name, {"x": name}]})
    assert not set("<>&\u2028\u2029\x00\n") & set(text)
    assert json.loads(text) == {name: [name, {"x": name}]}


def test_json_has_no_nan_and_no_broken_text() -> None:
    text = json_text({
        "a": [float("nan"), float("inf"), np.float32(0.5), np.int64(3)],
        "b": "\udcff",
    })
    assert json.loads(text) == {"a": [None, None, 0.5, 3], "b": "?"}
    text.encode("utf-8")


def test_a_page_loads_nothing() -> None:
    page = Page(embedded_page("t", made()))
    loaded = {"src", "href", "srcset", "data", "action", "poster", "background"}
    assert not [tag for tag, attrs in page.tags if loaded & set(attrs)]
    assert not [
        tag for tag, attrs in page.tags if any(name.startswith("on") for name in attrs)
    ]
    policy = next(
        a["content"]
        for _, a in page.tags
        if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "unsafe-eval" not in policy
    imports = json.loads(page.scripts["importmap"])["imports"]
    assert all(
        url.startswith("data:text/javascript;base64,") for url in imports.values()
    )


def test_the_modules_import_each_other_and_nothing_else() -> None:
    page = Page(embedded_page("t", made(3, 3)))
    imports = json.loads(page.scripts["importmap"])["imports"]
    wanted = set(re.findall(r'from "([^"]+)"', page.scripts["module"]))
    for url in imports.values():
        code = base64.b64decode(url.partition(",")[2]).decode()
        wanted |= set(
            re.findall(r'^(?:import|export)[^"\n]*\bfrom "([^"]+)"', code, re.M)
        )
        wanted |= set(re.findall(r'^import "([^"]+)"', code, re.M))
    assert wanted == set(imports)


def test_own_modules_are_short_and_make_no_markup() -> None:
    own = {
        name: text for name, text in modules().items() if not name.startswith("uPlot")
    }
    assert len(own) > 15
    for name, text in own.items():
        assert text.count("\n") <= 300, name
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
        ):
            assert forbidden not in text, (name, forbidden)


def test_the_vendored_library_has_its_licence() -> None:
    static = files("svdhooks.web").joinpath("static")
    assert (
        "v1.6.32" in static.joinpath("uPlot.esm.js").read_text(encoding="utf-8")[:400]
    )
    assert "MIT" in static.joinpath("uPlot.LICENSE.txt").read_text(encoding="utf-8")


@pytest.mark.usefixtures("as_a_user_calls")
def test_other_arrays_are_refused() -> None:
    with pytest.raises(TypeError, match=r"float64.*float32.*PageData\.add"):
        packed([np.zeros(3)])


def test_sorted_bytes_pack_tighter() -> None:
    curve = np.exp(-np.linspace(0, 3, 20_000)).astype(np.float32)
    _, text = packed([curve])
    assert len(base64.b64decode(text)) < 0.8 * len(zlib.compress(curve.tobytes(), 9))
