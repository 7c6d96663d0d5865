"""Whether the spectra of a record are solved at once or by another thread."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch

from svdhooks.conductor.models import Models
from svdhooks.layers import Layer
from svdhooks.linalg.problems import seconds_for
from svdhooks.quantities import Covariance, Quantity, WeightSpectrum
from svdhooks.solving import Compute

WORTH_SECONDS = 0.05
"""Records that are solved in less are not worth a thread."""


def chosen_compute(
    choice: Compute,
    *,
    seconds: float,
    on_cuda: bool,
    torch_threads: int,
    cores: float | int,
    local_processes: int = 1,
    processes: int = 1,
) -> Literal["inline", "thread"]:
    """Where the spectra of a record are solved.

    A core is free where the threads of torch leave one to each process of a machine,
    or the model is on a GPU. Where all are in use, one more thread makes training up
    to four times slower while it runs.

    Args:
        choice: ``ProbeOptions.compute``.
        seconds: What solving takes, about.
        on_cuda: Whether the parameters are on a GPU.
        torch_threads: Of this process.
        cores: That this process may use.
        local_processes: Of the same run, on this machine.
        processes: Of the same run; several exchange the results at the end of each
            record, so that these have to be there.

    Returns:
        ``"inline"`` or ``"thread"``.
    """
    if choice == "inline" or processes > 1:
        return "inline"
    if choice == "thread":
        return "thread"
    free = on_cuda or torch_threads < cores / max(local_processes, 1)
    return "thread" if free and seconds > WORTH_SECONDS else "inline"


def chosen_here(
    choice: Compute, seconds: float, on_cuda: bool
) -> Literal["inline", "thread"]:
    """`chosen_compute` for this process.

    Args:
        choice: ``ProbeOptions.compute``.
        seconds: What solving takes, about.
        on_cuda: Whether the parameters are on a GPU.

    Returns:
        ``"inline"`` or ``"thread"``.
    """
    local = os.environ.get("LOCAL_WORLD_SIZE", "1")
    group = torch.distributed
    joined = group.is_available() and group.is_initialized()
    return chosen_compute(
        choice,
        seconds=seconds,
        on_cuda=on_cuda,
        torch_threads=torch.get_num_threads(),
        cores=allowed_cores(),
        local_processes=int(local) if local.isdecimal() else 1,
        processes=group.get_world_size() if joined else 1,
    )


def allowed_cores(groups: Path = Path("/sys/fs/cgroup")) -> float:
    """How many cores this process may use.

    Args:
        groups: Where Linux tells the quota of a container, such as that of
            ``docker run --cpus=2``, in which all cores are seen.

    Returns:
        The number, which a quota may make a fraction.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # there is none on macOS
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            told = " ".join((groups / name).read_text() for name in names).split()
            quota, period = map(float, told)
        except (OSError, ValueError):  # not there, or "max"
            continue
        if quota > 0 and period > 0:  # -1: none
            return min(float(cores), quota / period)
    return float(cores)


def solve_seconds(models: Models, due: Iterable[Quantity]) -> float:
    """About how long a thread solves the spectra of a record.

    Args:
        models: What is watched.
        due: What is measured.

    Returns:
        Seconds.
    """
    seconds = 0.0
    for quantity in due:
        for model in models:
            if isinstance(quantity, WeightSpectrum):
                seconds += sum(map(_of_weight, model.measurer.table.layers))
            elif isinstance(quantity, Covariance):
                seconds += sum(
                    seconds_for(x.points[point])
                    for x in model.measurer.watched
                    for point in quantity.measured_points(x)
                )
    return seconds


def _of_weight(layer: Layer) -> float:
    if layer.tied_to is not None or layer.factors is not None:
        return 0.0
    side, rows = sorted(layer.shape)
    many = layer.experts or layer.groups
    return seconds_for(side, rows, many)


def on_cuda(models: Models) -> bool:
    """Whether a parameter of a model is on a GPU.

    Args:
        models: What is watched.

    Returns:
        Whether one is.
    """
    return any(
        parameter.is_cuda
        for model in models
        for parameter in model.measurer.model.parameters()
    )
