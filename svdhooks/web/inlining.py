"""The ES modules of a page as one script, for places that load no other."""

import re
from functools import cache

from svdhooks.web.embedding import modules

_IMPORT = re.compile(r'^import\s+(\w+|\{[^}]*\})\s+from\s+"\./([^"/]+)";\n', re.M)
_NAMED = re.compile(r"^export ((?:async )?function|const|class) (\w+)", re.M)
_LISTED = re.compile(r"^export \{([^}]*)\};$", re.M)
_REMARK = re.compile(r"^[ \t]*(?://.*|/\*(?:[^*]|\*(?!/))*\*/[ \t]*)\n", re.M)
_INDENT = re.compile(r"^[ \t]+|\n(?=\n)", re.M)


@cache
def inlined(entry: str) -> str:
    """One script that does what a module and those it imports do.

    A page in a notebook's frame obeys the policy of the notebook too, and that of
    VS Code lets inline scripts run but loads no ``data:`` URLs. Each module becomes a
    function of its own that returns what it exports; none of ours changes an exported
    name later on, imports in a circle or has text over several lines.

    Args:
        entry: File name of a module; its ``start`` is called.

    Returns:
        The text of a script of type module.
    """
    texts = modules(entry)
    order: list[str] = []
    _visit(entry, texts, order)
    names = {name: f"_{place}" for place, name in enumerate(order)}
    parts = [f"const {names[name]} = {_scoped(texts[name], names)};" for name in order]
    return "\n".join([*parts, _START.format(names[entry])])


_START = """{}.start().catch((error) => {{
const line = document.createElement("p");
line.className = "plain";
line.textContent = `This view could not be drawn: ${{error.message}}`;
document.getElementById("svdhooks").prepend(line);
throw error;
}});
"""


def _visit(name: str, texts: dict[str, str], order: list[str]) -> None:
    """What a module imports stands before it."""
    for match in _IMPORT.finditer(texts[name]):
        if match[2] not in order:
            _visit(match[2], texts, order)
    order.append(name)


def _scoped(text: str, names: dict[str, str]) -> str:
    """A module as an expression: what it exports."""
    text = _REMARK.sub("", text)  # first: one of them holds an export
    exported = [match[2] for match in _NAMED.finditer(text)]
    listed = [
        item.split(" as ") for m in _LISTED.findall(text) for item in m.split(",")
    ]
    exported += [": ".join(map(str.strip, reversed(pair))) for pair in listed]
    body = _IMPORT.sub(lambda match: _imported(match, names), text)
    body = _LISTED.sub("", _NAMED.sub(r"\1 \2", body))
    body = _INDENT.sub("", body)
    return f"(() => {{\n{body}\nreturn {{ {', '.join(exported)} }};\n}})()"


def _imported(match: re.Match[str], names: dict[str, str]) -> str:
    """An import as the declaration of constants."""
    what, module = match[1], names[match[2]]
    if not what.startswith("{"):
        return f"const {what} = {module}.default;\n"
    return f"const {what.replace(' as ', ': ')} = {module};\n"
