"""The reference batch: what the probe feeds to the model at every record."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from svdhooks.calling import named_by_forward, required_arguments, takes_whole_batch
from svdhooks.layers import Samples
from svdhooks.nested import map_tensors, private, tensors_in, with_data
from svdhooks.solving import Compute
from svdhooks.wholefile import written_whole

Forward = Callable[[nn.Module, Any], Any]
Mask = str | Callable[[Any], Tensor | None]


@dataclass(frozen=True)
class ProbeOptions:
    """What of the reference batch counts, and how it is kept.

    Attributes:
        mask: Which tokens count: the key of a ``(batch, length)`` mask in the
            reference batch (``"attention_mask"``), or a callable that takes the
            batch and returns one, or None where all count. Padding distorts ranks:
            60 % of it takes an effective rank from 244 to 88.
        samples: What a sample is where there is a sequence axis: every token, the
            last one that counts, or the mean over those that count.
        keep: What of the batch is stored with the run, so that a resumed run
            probes the same one: ``"batch"``, or only its ``"hash"``.
        max_bytes: A larger batch is stored as a hash in any case.
        window: With ``observe="training"``: the training batches of that many
            optimiser steps before a record are observed.
        compute: Where spectra of weights and covariances are solved: ``"inline"``,
            before ``step()`` returns; ``"thread"``, by one thread beside the training,
            from copies, and written a few steps later; ``"auto"``: by a thread where a
            core is free or the model is on a GPU, and a record takes more than 50 ms.
            With several processes always inline.
    """

    mask: Mask | None = None
    samples: Samples = "tokens"
    keep: Literal["batch", "hash"] = "batch"
    max_bytes: int = 64 * 2**20
    window: int = 4
    compute: Compute = "auto"

    def __post_init__(self) -> None:
        """Check the choices.

        Raises:
            ValueError: If one of them is unknown.
            TypeError: If ``mask`` is neither a key nor a callable.
        """
        if self.samples not in {"tokens", "last", "mean"}:
            raise ValueError(
                f"samples={self.samples!r}: expected 'tokens', 'last' or 'mean'."
            )
        for name in ("window", "max_bytes"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, int):
                raise TypeError(f"{name}={number!r}: expected a whole number.")
        if self.window < 1:
            raise ValueError(f"window={self.window}: expected at least one step.")
        if self.compute not in {"auto", "inline", "thread"}:
            raise ValueError(
                f"compute={self.compute!r}: expected 'auto', 'inline' or 'thread'."
            )
        if self.keep not in {"batch", "hash"}:
            raise ValueError(f"keep={self.keep!r}: expected 'batch' or 'hash'.")
        if not (self.mask is None or isinstance(self.mask, str) or callable(self.mask)):
            raise TypeError(
                f"mask={self.mask!r}: expected the key of a mask in the batch, such as "
                "'attention_mask', or a callable that takes the batch."
            )


@dataclass(frozen=True, eq=False)
class ReferenceBatch:
    """A private copy of a batch and the way to call the model with it.

    Attributes:
        batch: What ``forward=`` and a callable ``mask`` receive.
        args: Positional arguments of the model.
        kwargs: Keyword arguments of the model.
    """

    batch: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def given(cls, probe: Any) -> "ReferenceBatch":
        """From ``probe=``: tensor; tuple -> positional; mapping -> keyword arguments.

        Args:
            probe: As given by the user.

        Returns:
            The batch, copied.

        Raises:
            TypeError: If there is no tensor in ``probe``.
        """
        if not any(True for _ in tensors_in(probe)):
            raise TypeError(
                f"Found probe={type(probe).__name__} without any tensor; expected a "
                "tensor, a tuple of positional arguments or a mapping of keyword "
                "arguments for the model. (A DataLoader: give one batch of it.)"
            )
        own = private(probe)
        if isinstance(own, Mapping):
            return cls(own, (), own)
        return cls(own, tuple(own) if isinstance(own, (tuple, list)) else (own,), {})

    @classmethod
    def from_training(cls, batch: Any, model: nn.Module) -> "ReferenceBatch":
        """From a batch of the training loop, whose targets the model does not take.

        A tuple or list gives as many leading entries as ``forward`` requires, at
        least one; a mapping gives the keys that ``forward`` names. A ``forward`` whose
        one argument is called ``batch`` gets all of it.

        Args:
            batch: As it comes from the loader.
            model: Whose ``forward`` is looked at.

        Returns:
            The batch, copied.

        Raises:
            TypeError: If it holds no data, such as a step number.
        """
        own = with_data(private(batch))
        if takes_whole_batch(model):
            return cls(own, (own,), {})
        if isinstance(own, Mapping):
            return cls(own, (), named_by_forward(own, model))
        if isinstance(own, (tuple, list)):
            return cls(own, tuple(own[: required_arguments(model)]), {})
        return cls(own, (own,), {})

    @classmethod
    def from_call(
        cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> "ReferenceBatch":
        """From the arguments of a call of the model.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.

        Returns:
            The batch, copied.

        Raises:
            TypeError: If they hold no data.
        """
        args, kwargs = with_data(private((args, dict(kwargs))))
        if not args:
            return cls(kwargs, (), kwargs)
        return cls(args[0] if len(args) == 1 else args, args, kwargs)

    def run(self, model: nn.Module, forward: Forward | None = None) -> None:
        """Call the model once, with copies on its device and in its dtype.

        Args:
            model: The plain module.
            forward: How to call it instead of ``model(*args, **kwargs)``.
        """
        place = placement(model)
        # copies: a model may change its input in place
        if forward is not None:
            forward(model, map_tensors(place, self.batch))
        else:
            model(
                *map_tensors(place, self.args), **map_tensors(place, dict(self.kwargs))
            )

    def mask(
        self, option: Mask | None, model: nn.Module
    ) -> Bool[Tensor, "batch length"] | None:
        """Which tokens count.

        Args:
            option: ``ProbeOptions.mask``.
            model: Whose device the mask goes to.

        Returns:
            The mask, or None if all tokens count.

        Raises:
            ValueError: If the batch has no such key, or the mask is not 2-D.
        """
        if option is None:
            return None
        if callable(option):
            value = option(self.batch)
            if value is None:
                return None
        else:
            named = self.batch if isinstance(self.batch, Mapping) else self.kwargs
            if option not in named:
                raise ValueError(
                    f"mask={option!r}: the reference batch has no such key; found "
                    f"{sorted(named) or 'no keys at all'}. Give a mapping with that "
                    "key as probe=, or a callable as mask=."
                )
            value = named[option]
        if not isinstance(value, Tensor) or value.ndim != 2:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value)
            raise ValueError(
                f"mask={option!r}: expected a (batch, length) tensor that is non-zero "
                f"where a token counts, found {shape}."
            )
        device = next((p.device for p in model.parameters()), value.device)
        return value.to(device) != 0

    @functools.cached_property
    def identity(self) -> str:
        """The digest, found once: the batch is private and does not change."""
        return self.digest()

    def digest(self) -> str:
        """SHA-256 over the content of all tensors, in order."""
        total = hashlib.sha256()
        for tensor in tensors_in((self.batch, self.args, dict(self.kwargs))):
            plain = tensor.detach().cpu().contiguous()
            total.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
            total.update(plain.flatten().view(torch.uint8).numpy().tobytes())
        return total.hexdigest()

    @property
    def nbytes(self) -> int:
        """Bytes that the tensors take."""
        return sum(t.nbytes for t in tensors_in((self.args, dict(self.kwargs))))

    def save(self, path: Path) -> None:
        """Write the batch to a file that `load` reads; all of it or nothing.

        Args:
            path: The file.

        Raises:
            Exception: If it cannot be written, or could not be read again.
        """
        parts = {"batch": self.batch, "args": self.args, "kwargs": dict(self.kwargs)}
        with written_whole(path) as begun:
            torch.save(map_tensors(lambda t: t.cpu(), parts), begun)
            self.load(begun)  # classes of the user's are refused: say so now, not then

    @classmethod
    def load(cls, path: Path) -> "ReferenceBatch":
        """Read what `save` wrote; only tensors and plain containers are accepted.

        Args:
            path: The file.

        Returns:
            The batch.
        """
        return cls(**torch.load(path, weights_only=True))


def placement(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """How a tensor of a batch enters a model.

    Args:
        model: The plain module.

    Returns:
        Gives a copy on its device; floats in its dtype where it has just one.
    """
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    dtypes = {p.dtype for p in parameters}
    device = parameters[0].device if parameters else None
    dtype = dtypes.pop() if len(dtypes) == 1 else None

    def place(tensor: Tensor) -> Tensor:
        wanted = dtype if tensor.is_floating_point() else None
        return tensor.to(device=device, dtype=wanted or tensor.dtype, copy=True)

    return place
