"""The gate: ``python -m tests`` runs format, lint, types, import layers and tests.

Cheapest first; all of them run, so that one report shows everything that is wrong.
Arguments go to pytest: ``python -m tests -m "not slow"``.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

CHECKS = {
    "format": ["ruff", "format", "--check", "."],
    "lint": ["ruff", "check", "."],
    "import layers": ["importlinter.cli"],
    "types": ["mypy"],
    # those that start processes of their own stay in one worker
    "tests": ["pytest", "-n", str(min(os.cpu_count() or 1, 4)), "--dist", "loadgroup"],
}


def main(arguments: list[str]) -> int:
    """Run every check and say which failed."""
    failed = []
    # two workers on two cores: more threads in each would only wait for each other
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    for name, command in CHECKS.items():
        extra = arguments if name == "tests" else []
        begun = time.monotonic()
        print(f"== {name}", flush=True)  # noqa: T201
        launcher = [sys.executable, "-m", *command, *extra]
        if command[0] == "importlinter.cli":
            call = "from importlinter.cli import lint_imports_command as c; c()"
            launcher = [sys.executable, "-c", call]
        result = subprocess.run(launcher, cwd=ROOT, env=environment, check=False)
        if result.returncode:
            failed.append(name)
        print(f"== {name}: {time.monotonic() - begun:.0f} s", flush=True)  # noqa: T201
    print("== failed: " + ", ".join(failed) if failed else "== all passed")  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
