"""Tensors that come back as they were, whatever a forward writes into them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode,
    _pop_mode_temporarily,
)

from svdhooks.layers.sharding import is_dtensor

COPIED_BYTES = 2**24
"""Up to that many are copied rather than watched: it takes a few milliseconds."""


@contextmanager
def originals_kept(
    tensors: Mapping[str, Tensor], *, long: bool = False
) -> Iterator[None]:
    """Put parameters back that are written to, or pointed elsewhere, inside.

    Some models rescale their weights on entering evaluation mode (RWKV), others move
    a momentum twin in their forward (MoCo). A parameter is copied just before the
    first operation that writes to it, so nothing is copied where nothing is written.

    Args:
        tensors: Name -> parameter.
        long: Whether so many operations are to come that small parameters are rather
            copied at once than watched.

    Yields:
        Nothing.

    Raises:
        RuntimeError: If one was changed by something that is not seen, such as a
            kernel of its own; it is as that left it.
    """
    before = [
        (name, x, x.detach(), x._version)
        for name, x in _with_shards(tensors)
        # inference tensors track no version and refuse updates in place
        if not x.is_inference()
    ]
    mode = _CopyBeforeWriting([x for _, x, _, _ in before])
    changed: list[str] = []
    copied = long and mode.copy_all(COPIED_BYTES)
    try:
        with nullcontext() if copied else mode:
            yield
    finally:
        for name, tensor, original, version in before:
            moved = point_to(tensor, original)
            copy = mode.copies.get(id(tensor))
            if copy is not None and not (copied and _same(tensor, copy)):
                # the data: a graph that saved the parameter may still use it
                tensor.data.copy_(copy)
            if tensor._version == version:
                continue
            memory = getattr(tensor, "_local_tensor", tensor)
            if moved or id(memory) in {*mode.copies, *mode.pointed}:
                set_version(tensor, version)
            else:
                changed.append(name)
    if changed:
        raise RuntimeError(
            f"the forward changes parameters in place ({', '.join(changed[:3])}); such "
            "a model cannot be run on the side of its training"
        )


@contextmanager
def unwatched() -> Iterator[None]:
    """Run operations of our own, of which it is known that they write to no parameter.

    Each operation that is looked at takes some 10 µs, and a measurement has many.

    Yields:
        Nothing.
    """
    if isinstance(_get_current_dispatch_mode(), _CopyBeforeWriting):
        with _pop_mode_temporarily():
            yield
    else:
        yield


def point_to(tensor: Tensor, original: Tensor) -> bool:
    """Let a tensor hold the memory again that it held before.

    Args:
        tensor: Whose ``data`` may have been assigned.
        original: An alias made before.

    Returns:
        Whether it held another.
    """
    moved = _place(tensor) != _place(original) or tensor.shape != original.shape
    if moved:
        tensor.data = original
    return moved


def set_version(tensor: Tensor, version: int) -> None:
    """Say that a tensor's content is that of an earlier version.

    Args:
        tensor: The tensor; a graph that saved it may still use it.
        version: What ``_version`` was.
    """
    torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))


class _CopyBeforeWriting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Copies the given tensors before an operation writes to their memory."""

    # without it torch refuses flex attention and the like under a mode
    supports_higher_order_operators = True

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.copies: dict[int, Tensor] = {}
        self.pointed: set[int] = set()
        self._given = len(tensors)
        self._at: dict[int, list[Tensor]] = {}
        for tensor in tensors:
            place = _place(tensor)
            if place:
                self._at.setdefault(place[0], []).append(tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: to skip it, torch would import it first, which takes seconds."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        for position, name in _written(func):
            value = kwargs.get(name) if position >= len(args) else args[position]
            several = value if isinstance(value, (list, tuple)) else [value]
            for tensor in several:
                if isinstance(tensor, Tensor):
                    self._before_writing(tensor, func)
        return func(*args, **kwargs)

    def copy_all(self, most: int) -> bool:
        """Copy all tensors now, if there is not much to copy.

        Args:
            most: Bytes.

        Returns:
            Whether they were copied. Not those that other processes may write to
            meanwhile, nor those of which only a part is here.
        """
        tensors = list({id(x): x for same in self._at.values() for x in same}.values())
        if len(tensors) < self._given or sum(x.nbytes for x in tensors) > most:
            return False
        if any(is_dtensor(x) or _is_shared(x) for x in tensors):
            return False
        self.copies = {id(x): x.detach().clone() for x in tensors}
        return True

    def _before_writing(self, written: Tensor, func: Any) -> None:
        written = getattr(written, "_local_tensor", written)
        place = _place(written)
        for tensor in self._at.get(place[0], ()) if place else ():
            if func.__name__.startswith("set_."):  # changes where, not what
                self.pointed.add(id(tensor))
            elif id(tensor) not in self.copies:
                self.copies[id(tensor)] = tensor.detach().clone()


@lru_cache(maxsize=4096)
def _written(func: Any) -> tuple[tuple[int, str], ...]:
    """Position and name of the arguments that an operation writes to."""
    schema = getattr(func, "_schema", None)
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(schema.arguments if schema else ())
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def _with_shards(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor; of a DTensor, which has no memory, also what this process holds."""
    for name, tensor in tensors.items():
        yield name, tensor
        if is_dtensor(tensor):
            yield name, tensor._local_tensor


def _is_shared(tensor: Tensor) -> bool:
    """Whether other processes may write to a tensor."""
    if tensor.is_cuda:  # of which torch always says so
        return False
    return bool(tensor.is_shared())  # type: ignore[no-untyped-call]


_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers of so many bytes."""


def _same(tensor: Tensor, copy: Tensor) -> bool:
    """Whether two tensors hold the same bytes."""
    if tensor.shape != copy.shape or tensor.dtype != copy.dtype:
        return False
    # as whole numbers: NaN is like itself, and zero is not like minus zero
    whole = _WHOLE.get(tensor.itemsize, tensor.dtype)
    return torch.equal(tensor.detach().view(whole), copy.view(whole))


def _place(tensor: Tensor) -> tuple[int, int] | None:
    """Memory and offset in it; None of a tensor that has none of its own."""
    try:
        start = tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse, or a tensor subclass
        return None
    return (start, int(tensor.storage_offset())) if start else None
