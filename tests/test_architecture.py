"""Promises about the source itself, and about what importing it loads."""

import ast
import functools
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import svdhooks
from tests.logs import write_run

PACKAGE = Path(svdhooks.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

Check = Callable[[ast.AST], list[str]]


# --- what a file does ------------------------------------------------------------------


def hooks_registered(tree: ast.AST) -> list[str]:
    """Calls and mentions of anything like ``register_forward_hook``."""
    return [
        name
        for node in ast.walk(tree)
        for name in [_last_name(node)]
        if name.startswith("register_") and name.endswith("hook")
    ]


def prints(tree: ast.AST) -> list[str]:
    """Calls of ``print``, and writing to the standard streams."""
    called = [_path(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)]
    return [p for p in called if p == "print" or p.startswith(("sys.std", "pprint"))]


def asserts(tree: ast.AST) -> list[str]:
    """``assert`` statements: they vanish under ``python -O``."""
    return ["assert" for node in ast.walk(tree) if isinstance(node, ast.Assert)]


def imports(tree: ast.AST) -> list[str]:
    """Modules that are imported, anywhere, except for type checkers alone."""
    found: list[str] = []
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def networks(tree: ast.AST) -> list[str]:
    """Uses of ``torch.nn``, ``torch.optim`` and the like."""
    places = ("torch.nn", "torch.optim", "torch.distributed", "torch.utils.hooks")
    used = [_path(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return [p for p in (*imports(tree), *used) if p.startswith(places)]


def future_annotations(tree: ast.AST) -> list[str]:
    """``from __future__ import annotations``: jaxtyping's checks need real ones."""
    return [name for name in imports(tree) if name.startswith("__future__")]


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in _path(child.test):
            continue
        yield child
        yield from _executed(child)


def _path(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{_path(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def _last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value  # getattr(module, "register_forward_hook")
    return node.id if isinstance(node, ast.Name) else ""


@functools.cache
def _tree(path: Path) -> ast.AST:
    return ast.parse(path.read_text())


@functools.cache
def _imported() -> dict[str, list[str]]:
    return _where(imports)


def _where(check: Check, files: list[Path] = FILES) -> dict[str, list[str]]:
    """File -> what a check found in it."""
    found = {path.relative_to(PACKAGE).as_posix(): check(_tree(path)) for path in files}
    return {path: names for path, names in found.items() if names}


def _importers(*packages: str) -> set[str]:
    """The files that import one of these packages."""
    return {
        path
        for path, names in _imported().items()
        if any(name.split(".")[0] in packages for name in names)
    }


# --- the promises ------------------------------------------------------------------------


def test_only_one_file_registers_hooks():
    assert set(_where(hooks_registered)) == {"hooks.py"}


def test_nothing_prints():
    assert _where(prints) == {}


def test_nothing_is_asserted_to_the_user():
    assert _where(asserts) == {}


def test_no_annotation_is_postponed():
    assert _where(future_annotations) == {}


def test_mathematics_knows_tensors_and_no_networks():
    assert _where(networks, sorted((PACKAGE / "linalg").rglob("*.py"))) == {}


def test_each_heavy_dependency_enters_through_its_doors():
    lightning = _importers("lightning", "pytorch_lightning")
    assert {p for p in lightning if not p.startswith("experiments/")} <= {
        "lightning.py"
    }
    boards = _importers("tensorboard")
    assert {p for p in boards if not p.startswith("dashboard/")} <= {
        "eventfile/writer.py",
        "eventfile/reader.py",
        "eventfile/values.py",
    }
    assert _importers("pandas") <= {"runlog/frame.py", "analysis/graph.py"}
    assert _importers("pyarrow") <= {"cli/export_tables.py"}
    assert _importers("jinja2") <= {"web/embedding.py", "web/framing.py"}
    assert all(p.startswith("cli/") for p in _importers("typer", "rich", "click"))
    assert all(p.startswith("experiments/") for p in _importers("sklearn"))
    assert _importers("transformers") <= {"transformers.py"}
    drawing = _importers("matplotlib")
    assert all(path.startswith("analysis/plots/") for path in drawing)
    assert _importers("accelerate") == set()


def test_the_read_side_never_imports_torch():
    folders = (
        "eventfile/",
        "runlog/",
        "display/",
        "alarms/",
        "web/",
        "dashboard/",
        "analysis/comparison/",
    )
    files = {
        "record.py",
        "schema.py",
        "schedule.py",
        "derived.py",
        "_derivable.py",
        "analysis/trajectory.py",
        "cli/__init__.py",
        "cli/alarmed.py",
        "cli/columns.py",
        "cli/compared.py",
        "cli/export.py",
        "cli/export_arrays.py",
        "cli/export_parts.py",
        "cli/export_tables.py",
        "cli/kinds.py",
        "cli/read.py",
        "cli/reading.py",
        "cli/root.py",
        "cli/telling.py",
        "__init__.py",
        "_lazy.py",
    }
    there = {path.relative_to(PACKAGE).as_posix() for path in FILES}
    assert files <= there
    read = files | {path for path in there if path.startswith(folders)}
    assert len(read) > len(files) + 20
    assert read.isdisjoint(_importers("torch", "lightning", "pytorch_lightning"))


BAD: dict[str, tuple[Check, str]] = {
    "hook": (hooks_registered, "module.register_forward_pre_hook(f)"),
    "hook of the optimiser": (hooks_registered, "o.register_step_post_hook(f)"),
    "hook by a mention": (
        hooks_registered,
        "f = nn.Module.register_full_backward_hook",
    ),
    "hook by its name": (hooks_registered, "getattr(m, 'register_forward_hook')(f)"),
    "global hook": (
        hooks_registered,
        "torch.nn.modules.module.register_module_forward_hook(f)",
    ),
    "print": (prints, "def f():\n    print('here')"),
    "stream": (prints, "import sys\nsys.stdout.write('here')"),
    "assert": (asserts, "def f(x):\n    assert x"),
    "future": (future_annotations, "from __future__ import annotations"),
    "network import": (networks, "from torch import Tensor, nn"),
    "network as a whole": (networks, "import torch.nn as N"),
    "network by its path": (networks, "import torch\nf = torch.nn.functional.relu"),
}


@pytest.mark.parametrize("what", BAD)
def test_each_check_can_fail(what):
    check, snippet = BAD[what]
    assert check(ast.parse(snippet))


@pytest.mark.parametrize(
    "snippet",
    [
        "import pandas",
        "import pandas as pd",
        "from pandas import DataFrame",
        "def f():\n    import pandas.core",
        "try:\n    import pandas\nexcept ImportError:\n    pass",
    ],
)
def test_every_form_of_import_is_seen(snippet):
    assert any(name.split(".")[0] == "pandas" for name in imports(ast.parse(snippet)))


def test_an_import_for_type_checkers_alone_is_none():
    snippet = "if TYPE_CHECKING:\n    import pandas\nimport os"
    assert imports(ast.parse(snippet)) == ["os"]


# --- what importing loads ------------------------------------------------------------------


def _loaded_by(program: str, *arguments: str) -> set[str]:
    """Packages outside the standard library that a program loads."""
    ending = (
        "\nimport sys, atexit\n"
        "tell = lambda: sys.stderr.write('LOADED ' + ' '.join(sys.modules))\n"
        "atexit.register(tell)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", ending + program, *arguments],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    modules = result.stderr.split("LOADED ")[1].split()
    roots = {name.partition(".")[0] for name in modules}
    return roots - set(sys.stdlib_module_names) - {"__main__", "svdhooks"}


def test_importing_the_package_loads_nothing_else():
    assert _loaded_by("import svdhooks") == _loaded_by("")


def test_this_check_can_fail():
    assert "numpy" in _loaded_by("import svdhooks; svdhooks.Record") - _loaded_by("")


HEAVY = {"torch", "lightning", "pytorch_lightning", "pandas", "matplotlib", "sklearn"}


def test_reading_a_log_loads_no_torch(tmp_path):
    write_run(tmp_path, range(0, 30, 10))
    program = (
        "import sys, svdhooks\n"
        "log = svdhooks.RunLog(sys.argv[1])\n"
        "assert log.steps.tolist() == [0, 10, 20]\n"
        "log.spectra('fc1'), log.covariance_spectra('fc1'), log.damage\n"
        "svdhooks.runs(sys.argv[1]), svdhooks.every(3), svdhooks.linalg\n"
        "svdhooks.linalg.stable_rank([2.0, 1.0])\n"
    )
    assert _loaded_by(program, str(tmp_path)).isdisjoint(HEAVY | {"rich", "typer"})


def test_the_summary_on_the_command_line_loads_no_torch(tmp_path):
    write_run(tmp_path, range(0, 30, 10))
    program = (
        "import sys\n"
        "sys.argv = ['svdhooks', 'summary', sys.argv[1]]\n"
        "from svdhooks.cli import main\n"
        "main()\n"
    )
    loaded = _loaded_by(program, str(tmp_path))
    assert loaded.isdisjoint(HEAVY)
    assert "rich" in loaded  # it did run


def test_watching_loads_no_lightning():
    program = (
        "import torch, svdhooks\n"
        "memory = svdhooks.MemorySink()\n"
        "model = torch.nn.Linear(2, 2)\n"
        "svdhooks.watch(model, None, sinks=[memory], probe=torch.zeros(3, 2)).close()\n"
        "assert memory.records\n"
    )
    unwanted = HEAVY - {"torch"} | {"tensorboard", "rich", "typer"}
    assert _loaded_by(program).isdisjoint(unwanted)


# --- the door --------------------------------------------------------------------------------


def test_every_public_name_resolves_to_what_it_says():
    for name in svdhooks.__all__:
        value = getattr(svdhooks, name)
        assert value is not None
        assert name in dir(svdhooks) or name == "__version__"
        said = getattr(value, "__name__", name)
        assert said.rpartition(".")[2] in {name, "Schedule"}
    for name in svdhooks.linalg.__all__:
        assert getattr(svdhooks.linalg, name) is not None


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'wacth'"):
        svdhooks.wacth  # noqa: B018


def test_star_import_gives_the_public_names():
    names: dict[str, object] = {}
    exec("from svdhooks import *", names)
    assert set(svdhooks.__all__) <= names.keys()


def test_no_handler_is_added_to_any_logger():
    assert not logging.getLogger("svdhooks").handlers
