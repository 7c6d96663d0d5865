"""Exporting a large log: CPU time, size and peak memory of each format.

Each export is a process of its own. Beside it stands the log opened and its last step
looked at, without any export. The log is one of the sink, as in log_large.py: 100 layers
with 3 spectra of 512 and 34 measures each, repeated; with --narrow of one layer, so that
one matrix has all the spectra. It is deleted afterwards, and so are the exports.

Usage: python benchmarks/export.py [--gb 0.2] [--narrow] [--directory /tmp]
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import log_large
from _bench import show
from log_write import step_records

from svdhooks.eventfile.writer import event_files

PROGRAM = """
import sys, time
from svdhooks.cli import app
begin = time.process_time()
if sys.argv[1] == "open":
    from svdhooks.runlog import RunLog
    log = RunLog(sys.argv[2])
    log.layers, log.steps
else:
    app(sys.argv[1:], standalone_mode=False)
spent = time.process_time() - begin
# not ru_maxrss, which begins with what the parent had when it forked
fields = dict(l.split(":", 1) for l in open("/proc/self/status"))
peak = int(fields["VmHWM"].split()[0]) / 1e3
sys.stderr.write(f"\\nTOOK {spent} {peak}")
"""

NARROW = ["decoder.layers.11.mlp.down_proj"]


def took(*arguments: str | Path) -> tuple[float, float]:
    """CPU seconds and peak megabytes of a command."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    seconds, peak = done.stderr.rsplit("TOOK ", 1)[1].split()
    return float(seconds), float(peak)


def measure(log_dir: Path, out: Path) -> list[tuple[str, ...]]:
    """A row for each export."""
    seconds, peak = took("open", log_dir)
    rows = [("opened: layers, steps", f"{seconds:.1f}", f"{peak:.0f}", "")]
    for what in ("measures", "spectra"):
        for form in ("csv", "parquet", "npz"):
            path = out / f"{what}.{form}"
            seconds, peak = took("export", log_dir, "-o", path, "--what", what)
            size = path.stat().st_size / 1e6
            path.unlink()
            cells = f"{seconds:.1f}", f"{peak:.0f}", f"{size:.0f}"
            rows.append((f"{what}, {form}", *cells))
            print(*rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=0.2)
    parser.add_argument("--narrow", action="store_true", help="one layer")
    parser.add_argument("--directory", type=Path, default=None)
    options = parser.parse_args()
    room = shutil.disk_usage(options.directory or tempfile.gettempdir()).free
    if room < 12e9 * options.gb:  # csv is many times as large
        sys.exit(f"Only {room / 1e9:.1f} GB are free; choose another --directory.")
    if options.narrow:
        log_large.LAYERS = NARROW
        log_large.step_records = lambda step, _, n: step_records(step, NARROW, n)
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        log_dir = Path(name) / "run"
        records = log_large.write_large(log_dir, options.gb * 1e9)
        (path,) = event_files(log_dir / "svdhooks")
        size = path.stat().st_size / 1e6
        layers = len(log_large.LAYERS)
        show(
            f"{records} records x {layers} layers, {size:.0f} MB",
            measure(log_dir, Path(name)),
            ("", "CPU s", "peak MB", "file MB"),
        )


if __name__ == "__main__":
    main()
