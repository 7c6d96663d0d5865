"""``scan_checkpoint`` with a power law against ``weightwatcher.analyze()``.

Both measure the same weights of a ResNet-18 and of a GPT: ours from a safetensors file,
which it opens and reads each time, theirs from a model that is in memory already. Each
runs in a process of its own with one thread, in turns; what is compared is the CPU time of
the call.

weightwatcher is no dependency of ours and wants an environment of its own:

    python -m venv /tmp/peers
    /tmp/peers/bin/pip install -c constraints.txt "setuptools<80" jaxtyping
    /tmp/peers/bin/pip install -c constraints.txt torch==2.13.0
    /tmp/peers/bin/pip install -c constraints.txt weightwatcher==0.7.7
    python benchmarks/scan.py --peer /tmp/peers/bin/python

Without it only our own time is told.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks._bench import show
from benchmarks.models import Gpt, resnet

MODELS: dict[str, Callable[[], nn.Module]] = {"resnet": resnet, "gpt": Gpt}
NAMES = {"resnet": "ResNet-18 11.2 M", "gpt": "GPT 13.8 M"}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
FIELDS = ("alpha", "xmin", "stable_rank", "spectral_norm", "num_pl_spikes")


def heavy(model: nn.Module) -> nn.Module:
    """Weights with tails, as training makes them: a power law times the random ones."""
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.ndim < 2:
            continue
        flat = weight.data.flatten(1)
        U, S, Vh = torch.linalg.svd(flat, full_matrices=False)
        exponent = 0.2 + 0.4 * torch.rand(())
        decay = torch.arange(1, len(S) + 1) ** -exponent
        weight.data.copy_(((U * (S * decay)) @ Vh).view_as(weight))
    return model


# --- the two sides, each in a process of its own ----------------------------------


def serve(work: Callable[[], Any]) -> None:
    """Measure whenever asked; the answer is one line of JSON."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a package prints is no answer
    for line in sys.stdin:
        begun = time.process_time()
        found = work()
        seconds = time.process_time() - begun
        answer = {"seconds": seconds, "found": found if line == "found\n" else None}
        out.write(json.dumps(answer) + "\n")
        out.flush()


def ours(path: str, measures: tuple[str, ...]) -> None:
    from svdhooks.checkpoint import scan_checkpoint

    def work() -> Any:
        scan = scan_checkpoint(path, measures=measures)
        return {
            r.layer: {**r.measures, "kind": scan.rows[r.layer]["kind"]}
            for r in scan.layers
        }

    torch.set_num_threads(1)
    serve(work)


def theirs(path: str, name: str) -> None:
    import logging

    from safetensors.torch import load_file

    try:
        import weightwatcher
    except ImportError:
        sys.exit("weightwatcher is not installed")
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    np.seterr(all="ignore")
    model = MODELS[name]()
    model.load_state_dict(load_file(path))
    watcher = weightwatcher.WeightWatcher(model=model)

    def work() -> Any:
        table = watcher.analyze()
        rows = {}
        for _, row in table.iterrows():
            key = str(row.get("longname", row["name"]))
            rows[key] = {f: float(row[f]) for f in FIELDS if f in row}
        return rows

    serve(work)


class Side:
    """One of the two processes."""

    def __init__(self, python: str, *arguments: str) -> None:
        path = os.pathsep.join([
            str(Path(__file__).parents[1]),
            os.environ.get("PYTHONPATH", ""),
        ])
        environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
        self._process = subprocess.Popen(
            [python, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, "PYTHONPATH": path.rstrip(os.pathsep)},
        )

    def ask(self, what: str = "go") -> dict[str, Any] | None:
        """Let it measure once; None where it has died."""
        try:
            self._process.stdin.write(f"{what}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def why(self) -> str:
        lines = self._process.stderr.read().strip().splitlines()
        return lines[-1] if lines else "no reason given"

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


# --- the comparison ----------------------------------------------------------------


def compare(name: str, peer: str, rounds: int, folder: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = heavy(MODELS[name]())
    path = folder / f"{name}.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    sides = {
        "svdhooks, power law": Side(sys.executable, "--ours", str(path)),
        "svdhooks, ranks only": Side(sys.executable, "--bare", str(path)),
        "weightwatcher": Side(peer, "--theirs", str(path), "--model", name),
    }
    found = {label: side.ask("found") for label, side in sides.items()}  # warms up, too
    for label in [label for label, answer in found.items() if answer is None]:
        print(f"{NAMES[name]}: without {label}: {sides[label].why()}")
        del sides[label]
    times: dict[str, list[float]] = {label: [] for label in sides}
    for _ in range(rounds):
        for label, side in sides.items():
            times[label].append(side.ask()["seconds"])
    medians = {label: statistics.median(seconds) for label, seconds in times.items()}
    base = medians["svdhooks, power law"]
    rows = [
        (label, f"{s:.2f}", f"{min(times[label]):.2f}", f"{s / base:.1f}")
        for label, s in medians.items()
    ]
    show(NAMES[name], rows, ("what", "CPU s", "least", "ratio"))
    if "weightwatcher" in sides:
        agreement(
            model,
            found["svdhooks, power law"]["found"],
            found["weightwatcher"]["found"],
        )
    for side in sides.values():
        side.close()


def agreement(model: nn.Module, mine: dict[str, Any], their: dict[str, Any]) -> None:
    """How far the numbers differ: of matrices directly, of convolutions by their way."""
    weights = {n: p.detach() for n, p in model.named_parameters() if p.ndim >= 2}
    for kinds, title in (
        (("linear", "embedding"), "matrices"),
        (("conv2d",), "convolutions, ours computed by their convention"),
    ):
        names = [n for n in mine if mine[n]["kind"] in kinds and n in their]
        left = [n for n in mine if mine[n]["kind"] in kinds and n not in their]
        if not names:
            continue
        values = {
            n: mine[n] if kinds[0] != "conv2d" else pooled(weights[f"{n}.weight"])
            for n in names
        }
        rows = []
        for measure, own in (
            ("spectral_norm", "spectral_norm"),
            ("stable_rank", "stable_rank"),
            ("alpha", "power_law_alpha"),
        ):
            # what they call spectral_norm is its square, an eigenvalue
            power = 0.5 if measure == "spectral_norm" else 1.0
            away = [abs(values[n][own] / their[n][measure] ** power - 1) for n in names]
            rows.append(difference(measure, np.array(away), names))
        tails = []
        for n in names:
            alpha = alpha_of_tail(weights[f"{n}.weight"], kinds, their[n]["xmin"])
            tails.append(abs(alpha / their[n]["alpha"] - 1))
        rows.append(difference("alpha, on their tail", np.array(tails), names))
        told = f"{title}: {len(names)}" + (
            f"; not in theirs: {', '.join(left)}" if left else ""
        )
        show(
            told,
            rows,
            ("relative difference", "median", "largest", "within 1 %", "beyond"),
        )


def difference(name: str, away: np.ndarray, names: list[str]) -> tuple[str, ...]:
    inside = f"{int((away < 0.01).sum())} of {len(away)}"
    beyond = ", ".join(n for n, x in zip(names, away, strict=True) if not x < 0.01)
    return name, f"{np.median(away):.0e}", f"{away.max():.0e}", inside, beyond


def pooled(weight: torch.Tensor) -> dict[str, float]:
    """The slices of a kernel, all their singular values in one, as weightwatcher has it."""
    from svdhooks import linalg

    sigma = slices(weight)
    return {
        "spectral_norm": float(sigma.max()),
        "stable_rank": float((sigma**2).sum() / sigma.max() ** 2),
        "power_law_alpha": linalg.power_law_alpha(sigma).alpha,
    }


def slices(weight: torch.Tensor) -> np.ndarray:
    *_, height, width = weight.shape
    per_slice = [
        np.linalg.svd(weight[:, :, i, j].double().numpy(), compute_uv=False)
        for i in range(height)
        for j in range(width)
    ]
    # their scale for convolutions, which moves neither stable rank nor alpha
    return np.sort(np.concatenate(per_slice))[::-1] / 2**0.5


def alpha_of_tail(weight: torch.Tensor, kinds: tuple[str, ...], x_min: float) -> float:
    """Maximum likelihood of α for the eigenvalues from their x_min on."""
    if kinds[0] == "conv2d":
        sigma = slices(weight)
    else:
        sigma = np.linalg.svd(weight.double().numpy(), compute_uv=False)
    values = np.sort(sigma**2)
    tail = values[values >= x_min * (1 - 1e-5)]
    return 1 + len(tail) / float(np.log(tail / tail[0]).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--peer", default=sys.executable, help="python with weightwatcher"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    parser.add_argument("--theirs", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.ours:
        ours(chosen.ours, ("power_law_alpha",))
    elif chosen.bare:
        ours(chosen.bare, ())
    elif chosen.theirs:
        theirs(chosen.theirs, chosen.model)
    else:
        with tempfile.TemporaryDirectory() as folder:
            for name in [chosen.model] if chosen.model else MODELS:
                compare(name, chosen.peer, chosen.rounds, Path(folder))


if __name__ == "__main__":
    main()
