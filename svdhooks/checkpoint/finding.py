"""Which checkpoints a series has, and at which steps."""

import glob
import re
from collections.abc import Mapping
from pathlib import Path


def checkpoints(
    pattern: str, step: str
) -> tuple[Mapping[int, Path], list[tuple[Path, str]]]:
    """The checkpoints that a glob matches, by their steps.

    Args:
        pattern: Glob of files or directories; one that ends in ``/`` means directories.
        step: Regular expression with one group, which takes the number of the step out
            of the path; of several places in a path the last one counts.

    Returns:
        Step -> path, ascending; paths without a step, and what is wrong with them.

    Raises:
        ValueError: If the expression is wrong, nothing matches, or two checkpoints have
            the same step.
    """
    expression = _compiled(step)
    whole = str(Path(pattern).expanduser()) + ("/" if pattern.endswith("/") else "")
    # a whole pattern, which may be absolute: Path.glob takes parts of one only
    paths = [Path(found) for found in sorted(glob.glob(whole))]  # noqa: PTH207
    if not paths:
        raise ValueError(
            f"No path matches {pattern!r}. Expected a glob of checkpoints, such as "
            "'ckpts/step*/' or 'ckpts/*.safetensors'; quote it, or the shell expands it."
        )
    found: dict[int, Path] = {}
    without: list[tuple[Path, str]] = []
    for path in paths:
        matches = list(expression.finditer(path.as_posix()))
        if not matches:
            without.append((path, f"{step!r} finds no step in its name"))
            continue
        number = _number(matches[-1][1], step, path)
        if number in found:
            raise ValueError(
                f"{found[number]} and {path} are both of step {number}. Expected one "
                f"checkpoint for each step; narrow the glob or change --step {step!r}."
            )
        found[number] = path
    if not found:
        raise ValueError(
            f"{step!r} finds no step in {paths[0]}"
            + (f", nor in {len(paths) - 1} more" if len(paths) > 1 else "")
            + r". Expected an expression with one group, such as 'step(\d+)'."
        )
    return dict(sorted(found.items())), without


def _compiled(step: str) -> re.Pattern[str]:
    try:
        expression = re.compile(step)
    except re.error as error:
        raise ValueError(
            f"--step {step!r} is no regular expression ({error}); expected one such as "
            r"'step(\d+)'."
        ) from error
    if expression.groups != 1:
        raise ValueError(
            f"--step {step!r} has {expression.groups} groups, expected one around the "
            r"number, such as 'step(\d+)'."
        )
    return expression


def _number(text: str | None, step: str, path: Path) -> int:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ValueError(
            f"--step {step!r} finds {text!r} in {path}, expected a whole number; let the "
            r"group match digits only: '(\d+)'."
        )
    return int(text)
