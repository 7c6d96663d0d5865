"""What reading a log costs: RunLog against the floor and against EventAccumulator.

The floor reads each record, checks both checksums, parses the Event and touches every
value once; it keeps nothing.

Usage: python benchmarks/log_read.py [--records 2000] [--rounds 5] [--full]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from _bench import cpu_seconds, show, side_by_side
from log_write import LAYERS, plain_event, step_records
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.compat.proto.event_pb2 import Event

from svdhooks.eventfile.writer import event_files, masked_crc
from svdhooks.runlog import RunLog
from svdhooks.sinks.tensorboard import TensorBoardSink

SHARE = 20


def floor(path: Path, parse: bool = True) -> None:
    """Read, check, parse, touch."""
    with path.open("rb", buffering=1 << 20) as file:
        while header := file.read(12):
            length = int.from_bytes(header[:8], "little")
            assert masked_crc(header[:8]) == int.from_bytes(header[8:], "little")
            payload = file.read(length)
            assert masked_crc(payload) == int.from_bytes(file.read(4), "little")
            if parse:
                touch(Event.FromString(payload))


def touch(event: Event) -> None:
    """Look at tag and value of everything in an Event."""
    for value in event.summary.value:
        _ = value.tag
        if value.HasField("tensor"):
            np.frombuffer(value.tensor.tensor_content, dtype=np.float32)
        else:
            _ = value.simple_value


def read(directory: Path) -> RunLog:
    """Read a log, spectra not yet decoded."""
    log = RunLog(directory)
    log.refresh()
    return log


def read_and_decode(directory: Path) -> None:
    """Read a log and put all singular values together."""
    log = read(directory)
    for layer in log.layers:
        log.spectra(layer)


def accumulate(directory: Path) -> None:
    """TensorBoard's reader for scripts, told to keep everything."""
    keep = dict.fromkeys(("scalars", "tensors", "histograms"), 0)
    event_accumulator.EventAccumulator(str(directory), keep).Reload()


def write_log(log_dir: Path, records: int) -> Path:
    """Records of 100 layers with 8 scalars and 512 float32."""
    writer, write = plain_event(log_dir / "svdhooks")
    for _ in range(records):
        write()
    writer.close()
    return writer.path


def write_sink_log(log_dir: Path, records: int) -> Path:
    """Records as the sink writes them: 3 spectra of 512 and 34 measures per layer."""
    sink = TensorBoardSink(log_dir, max_log_gb=None)
    for step in range(records):
        sink.write(step_records(step, LAYERS, 512))
    sink.close()
    return event_files(sink.directory)[0]


def compare(title: str, log_dir: Path, path: Path, rounds: int) -> None:
    """Time floor and RunLog on one log."""
    times = side_by_side(
        {
            "floor: read, check": lambda: floor(path, parse=False),
            "floor: read, check, parse, touch": lambda: floor(path),
            "RunLog": lambda: read(log_dir),
            "RunLog, all singular values decoded": lambda: read_and_decode(log_dir),
        },
        rounds,
    )
    base = times["floor: read, check, parse, touch"]
    size = path.stat().st_size / 1e6
    show(
        f"{title}, {size:.0f} MB; CPU, median of {rounds}",
        [
            (what, f"{t:.2f}", f"{size / t:.0f}", f"{t / base:.2f}")
            for what, t in times.items()
        ],
        ("", "s", "MB/s", "ratio"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="EventAccumulator on all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        path = write_log(root / "plain", options.records)
        title = f"{options.records} records x 100 layers x (8 scalars + 512 float32)"
        compare(title, root / "plain", path, options.rounds)
        share = 1 if options.full else SHARE
        part = write_log(root / "part", options.records // share)
        seconds = share * cpu_seconds(lambda: accumulate(part.parent))
        print(
            f"EventAccumulator: {seconds:.1f} s"
            + ("" if options.full else f" (scaled from 1/{SHARE} of the log)")
        )
        path.unlink()
        records = options.records // 10
        path = write_sink_log(root / "sink", records)
        title = f"{records} records of the sink x 100 layers"
        compare(title, root / "sink", path, options.rounds)


if __name__ == "__main__":
    main()
