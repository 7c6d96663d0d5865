"""Run a model on the side of its training and leave no trace."""

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from svdhooks.accelerated import without_autocast
from svdhooks.distributed.fsdp import shards_kept
from svdhooks.originals import originals_kept, point_to, set_version

SEED = 0
"""Random streams start from here in every probe, so that records are comparable."""


@contextmanager
def probe_context(
    model: nn.Module, *, derivatives: bool = False, purpose: str = "forward"
) -> Iterator[None]:
    """Make a forward pass on the side of training possible, then restore everything.

    Inside: every module is in evaluation mode (flags set one by one, so that no
    override of ``train()`` runs), nothing is compiled, autocast and inference mode
    are off, no graph is recorded (unless ``derivatives``), checkpointed segments run
    inline, attention takes its plain path, and all random streams start from a fixed
    seed. Afterwards: the random state of Python, NumPy, the CPU and all used GPUs,
    every parameter, buffer, plain attribute and training flag are as before. FSDP2's
    shards are sharded again; a process that fails inside makes up for the all-gathers in
    which the others wait for it.

    What cannot be seen is not restored: containers that a forward changes in place
    (a list it appends to) and state outside the model.

    Args:
        model: The plain module (not a compiled or DDP wrapper).
        derivatives: Prepare for Jacobians: record graphs, and use the attention and
            RNN kernels that forward-mode differentiation knows.
        purpose: What the pass is for: with derivatives those of one purpose gather the
            shards of FSDP2 in the same order.

    Yields:
        Nothing.

    Raises:
        RuntimeError: If the forward changed parameters in a way that is not seen;
            they cannot be restored, so the caller must not probe this model again.
    """
    modules = list(model.modules())
    parameters = [p for m in modules for p in m._parameters.values() if p is not None]
    devices = {p.device.type for p in parameters} - {"meta", "cpu"}
    with ExitStack() as stack:
        stack.enter_context(_random_state("mps" in devices))
        stack.enter_context(_attributes(modules))
        stack.enter_context(_buffers(modules))
        # before the attributes are put back, which hold its shards
        kind = f"derivatives: {purpose}" if derivatives else "forward"
        stack.enter_context(shards_kept(model, kind))
        named = dict(model.named_parameters())
        stack.enter_context(originals_kept(named, long=derivatives))
        stack.enter_context(_eager())
        stack.enter_context(_plain_kernels(modules, derivatives))
        stack.enter_context(_inline_checkpoints())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(derivatives))
        for device in devices | {"cpu"}:
            stack.enter_context(torch.autocast(device, enabled=False))
        if (forward := without_autocast(model)) is not None:
            model.__dict__["forward"] = forward
        for module in modules:
            module.training = False
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                # with a maximum, the forward rewrites rows of the weight
                module.max_norm = None
        yield


def same_randomness() -> None:
    """Let all random streams start again; within `probe_context`, which restores them."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002
    for generator in _generators():
        generator.manual_seed(SEED)


def _generators() -> list[torch.Generator]:
    # default_generator, not torch.manual_seed: that one also seeds GPUs that are
    # not initialised yet, and so changes the random stream of later training
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        generators.extend(torch.cuda.default_generators)
    return generators


@contextmanager
def _random_state(with_mps: bool) -> Iterator[None]:
    """Fix all random streams, then put them back."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    generators = _generators()
    states = [generator.get_state() for generator in generators]
    mps = torch.mps.get_rng_state() if with_mps else None
    try:
        same_randomness()
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        if mps is not None:
            torch.mps.set_rng_state(mps)


_CONTAINERS = ("_parameters", "_buffers", "_modules")
_MISSING = object()


@contextmanager
def _attributes(modules: list[nn.Module]) -> Iterator[None]:
    """Put back every attribute that was rebound: flags, counters, caches."""
    before = [dict(module.__dict__) for module in modules]
    tables = [
        {name: dict(module.__dict__[name]) for name in _CONTAINERS}
        for module in modules
    ]
    try:
        yield
    finally:
        for module, attributes, inner in zip(modules, before, tables, strict=True):
            _restore(module.__dict__, attributes)
            for name, entries in inner.items():
                _restore(module.__dict__[name], entries)


def _restore(now: dict[str, Any], before: dict[str, Any]) -> None:
    """Make ``now`` hold the same objects as ``before``; in place."""
    for key, value in before.items():
        if now.get(key, _MISSING) is not value:
            now[key] = value
    if len(now) > len(before):  # all of before is in it: the rest is new
        for key in now.keys() - before.keys():
            del now[key]


@contextmanager
def _buffers(modules: list[nn.Module]) -> Iterator[None]:
    """Put back the content of every buffer whose version moved."""
    buffers = {
        id(b): b
        for module in modules
        for b in module._buffers.values()
        if isinstance(b, Tensor) and not b.is_meta
    }
    # inference tensors track no version and refuse updates in place
    kept = [
        (b, b._version, b.detach(), b.detach().clone())
        for b in buffers.values()
        if not b.is_inference()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, version, original, content in kept:
                point_to(buffer, original)
                if buffer._version != version:
                    buffer.copy_(content)
                    set_version(buffer, version)


@contextmanager
def _eager() -> Iterator[None]:
    """Run compiled parts eagerly: hooks added after compilation never fire."""
    # nothing can be compiled before dynamo is imported, which takes a second
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _plain_kernels(modules: list[nn.Module], derivatives: bool) -> Iterator[None]:
    """Turn off kernels that skip hooks or have no derivative."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        if derivatives:
            backend = torch.nn.attention.SDPBackend.MATH
            stack.enter_context(torch.nn.attention.sdpa_kernel(backend))
            if any(isinstance(module, nn.RNNBase) for module in modules):
                stack.enter_context(_without_mkldnn())
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _without_mkldnn() -> Iterator[None]:
    # torch.backends.mkldnn.flags also sets what is there for other devices only, and
    # warns of it
    before = torch._C._get_mkldnn_enabled()
    try:
        torch._C._set_mkldnn_enabled(False)
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


class _InlineCheckpoint:
    """Stands in for ``CheckpointFunction``: calls the segment, keeps nothing."""

    @staticmethod
    def apply(function: Any, _preserve_random_state: bool, *args: Any) -> Any:
        return function(*args)


@contextmanager
def _inline_checkpoints() -> Iterator[None]:
    module: Any = torch.utils.checkpoint
    original = module.CheckpointFunction
    try:
        module.CheckpointFunction = _InlineCheckpoint
        yield
    finally:
        module.CheckpointFunction = original
