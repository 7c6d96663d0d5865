"""Run all benchmarks: ``python -m benchmarks``, or with ``--quick`` in about a minute.

Each runs in a process of its own, so that threads, caches and memory of one do not
reach the next. ``RESULTS.md`` says what they found and on which machine.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent

# script: arguments of a whole run, of a quick one
SCRIPTS = {
    "record_cost.py": ("--rounds 11", "--rounds 3 --threads 1"),
    "training_overhead.py": (
        "--seconds 90 --threads 1",
        "--seconds 15 --threads 1 --tasks mlp",
    ),
    "log_write.py": ("--rounds 30", "--rounds 5"),
    "log_read.py": ("--records 2000 --rounds 5", "--records 300 --rounds 2"),
    "log_large.py": ("--gb 5", "--gb 0.3"),
    "export.py": ("--gb 1", "--gb 0.05"),
    "dashboard.py": ("--rounds 7", "--rounds 3 --layers 20 --records 200"),
    "local_rank.py": ("--rounds 7", "--rounds 1 --cases mlp"),
    "light.py": ("--rounds 5 --largest", "--rounds 2 --quick"),
    "descrambling.py": ("--rounds 3", "--rounds 2 --quick"),
    "spectral_graph.py": ("--rounds 3", "--rounds 1 --quick"),
    "vector_cost.py": ("--rounds 5", "--rounds 1 --tasks mlp"),
    "ranks.py": ("--records 15", "--records 3"),
    "scan.py": ("--rounds 5", "--rounds 1 --model resnet"),
    "worker.py": ("--seconds 5", "--seconds 1"),
    "alarms.py": ("--jobs 2", "--jobs 1 --quick"),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about a minute")
    quick = parser.parse_args().quick
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    failed = []
    for script, (whole, short) in SCRIPTS.items():
        arguments = (short if quick else whole).split()
        print(f"\n== {script} {' '.join(arguments)}", flush=True)
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(HERE / script), *arguments],
            env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
            check=False,
        )
        print(f"== {script}: {time.perf_counter() - begun:.0f} s", flush=True)
        if done.returncode:
            failed.append(script)
    if failed:
        print(f"== failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
