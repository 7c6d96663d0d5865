"""The page's own files: by their bare names, from two directories, and nothing else."""

from importlib.resources import files

from svdhooks.dashboard.answers import RequestError

TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".txt": "text/plain",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_DIRECTORIES = ("svdhooks.dashboard", "svdhooks.web")
"""The first that has a file of a name gives it."""


def names() -> dict[str, str]:
    """Name of each file that may be asked for -> the package it is in."""
    found: dict[str, str] = {}
    for package in reversed(_DIRECTORIES):
        directory = files(package).joinpath("static")
        if not directory.is_dir():
            continue
        there = (one.name for one in directory.iterdir() if one.is_file())
        found |= {n: package for n in there if _suffix(n) in TYPES}
    return found


def static_file(name: str) -> tuple[bytes, str]:
    """A file of the page.

    Args:
        name: As it was asked for; looked up, and never made into a path.

    Returns:
        Its bytes and its media type.

    Raises:
        RequestError: If there is none.
    """
    package = names().get(name)
    if package is None:
        raise RequestError(404, f"No file {name[:80]!r}.", "Reload the page.")
    content = files(package).joinpath("static", name).read_bytes()
    return content, TYPES[_suffix(name)]


def _suffix(name: str) -> str:
    return name[name.rfind(".") :] if "." in name else ""
