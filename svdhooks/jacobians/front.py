"""The front door: the local rank of every layer, now."""

from collections.abc import MutableMapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from svdhooks.distributed.refusals import (
    needs_all,
    why_not_differentiated,
    why_refused,
)
from svdhooks.distributed.team import Team, TeamError, form_team
from svdhooks.jacobians.differentiator import Differentiator, Known
from svdhooks.jacobians.local_rank import LocalRank
from svdhooks.jacobians.options import JacobianOptions, Positions, check_threshold
from svdhooks.jacobians.passes import Passes
from svdhooks.layers import Selector, find_layers, named_modules, unwrap
from svdhooks.layers.tap import TapChoice, Watched, find_taps
from svdhooks.probe import Forward, ReferenceBatch


def local_rank(
    model: nn.Module,
    batch: Any,
    eps: float = 0.01,
    *,
    relative: bool = False,
    layers: Selector | Sequence[Selector] | None = None,
    taps: TapChoice | None = None,
    forward: Forward | None = None,
    directions: int = 64,
    max_directions: int = 1024,
    max_samples: int | None = None,
    max_bytes: int = 2**29,
    positions: Positions = "all",
    point: str | None = None,
    batch_axis: int | None = None,
    refine: bool = False,
) -> dict[str, LocalRank]:
    """Local rank of every layer: the rank of the Jacobian from the input to its output.

    ``rank(∂z_l/∂x)`` with the singular values above ``eps`` counted (Patel &
    Shwartz-Ziv 2024), for each sample of the batch, in evaluation mode, in the dtype of
    the model. The model and all random streams are afterwards as before. Tokens are
    differentiated at the output of the first embedding that is called. Padding is input
    like any other.

    Args:
        model: The model; wrappers are looked through. One that is sharded over several
            processes by FSDP2 is measured by all of them together, each on its batch.
        batch: Tensor; tuple of positional arguments; mapping of keyword arguments. Of
            several floating-point tensors the first is the input.
        eps: Singular values above it are counted.
        relative: Count those above ``eps·σ₁``.
        layers: Which layers: globs, module types, a predicate ``(name, module)``.
        taps: Your name -> module whose output is measured too.
        forward: ``(model, batch)``, for models that are called otherwise.
        directions: Directions of a random sketch, where a full basis does not fit; small
            layers are exact even then. Singular values and absolute ranks of a sketch
            are lower bounds; relative ranks are estimates.
        max_directions: The largest full basis.
        max_samples: Of a larger batch that many, evenly spread; None: all.
        max_bytes: Bound on what is held at once.
        positions: Of outputs with several positions: ``"all"`` of them, side by side;
            their ``"mean"``; or the number of one of them.
        point: Name of the module whose output is the input, if another.
        batch_axis: Axis of the input that holds the samples; None: found.
        refine: Refine sketches.

    Returns:
        Layer -> local rank; NaN with a reason in ``status`` for a layer that cannot be
        measured.

    Raises:
        ValueError: If an argument is out of range, no layer matches, the model does not
            take the batch, or it is spread over processes in a way that cannot be
            differentiated.
        TypeError: If an argument is of a wrong kind.
        RuntimeError: If a dual level of forward mode is open, or another process cannot
            be reached.
    """
    check_threshold("eps", eps)
    finest = {"relative_eps": eps} if relative else {"eps": eps}
    options = JacobianOptions(
        directions,
        max_directions,
        max_samples,
        max_bytes,
        positions,
        point,
        batch_axis,
        refine,
        **finest,
    )
    watched = _watched(model, layers, taps)
    refused = _why_not(model)
    if refused is not None:
        raise ValueError(refused)
    plain, together = unwrap(model), needs_all(model)
    team = form_team() if together else Team()
    passes = Passes(plain, team, together)
    try:
        # a batch is that of one process, and so is what is wrong with it
        with passes.alike():
            reference = ReferenceBatch.given(batch)
        differentiator = Differentiator(plain, forward, options, team, together)
        kept = _kept(forward, options, together)
        differentiator.known = kept.get(plain, Known())
        try:
            found = differentiator.measure(watched, reference)
        except Exception as error:
            if not isinstance(error, TeamError):
                with passes.alike():  # it may be the batch, which has words of its own
                    _try(plain, reference, forward, passes)
            raise
        if not differentiator.known.holds(plain):
            kept[plain] = differentiator.known
    finally:
        team.leave()
    return {name: LocalRank.of(each, eps, relative) for name, each in found.items()}


_KEPT: dict[object, "WeakKeyDictionary[nn.Module, Known]"] = {}


def _kept(
    forward: Forward | None, options: JacobianOptions, together: bool
) -> MutableMapping[nn.Module, Known]:
    """What earlier calls found out, which takes longer than measuring a small model.

    Nothing is kept that would keep the model alive, or a function of the user's.

    Args:
        forward: How the model is called.
        options: How the Jacobians are taken.
        together: Whether several processes measure it together.

    Returns:
        Model -> what was found out; empty where nothing is kept.
    """
    if forward is not None or together or options.point == "":
        return {}
    key = (options.point, options.positions, options.batch_axis)
    return _KEPT.setdefault(key, WeakKeyDictionary())


def _watched(
    model: nn.Module,
    layers: Selector | Sequence[Selector] | None,
    taps: TapChoice | None,
) -> tuple[Watched, ...]:
    table = find_layers(model, layers)
    modules = dict(named_modules(unwrap(model)))
    taken = {layer.name for layer in table.layers}
    return (*table.layers, *find_taps(taps, modules, taken))


def _why_not(model: nn.Module) -> str | None:
    """Why a model cannot be differentiated on the side of its training."""
    refused = why_refused(model) or why_not_differentiated(model)
    return None if refused is None else f"{refused}."


def _try(
    model: nn.Module,
    reference: ReferenceBatch,
    forward: Forward | None,
    passes: Passes,
) -> None:
    try:
        with passes.open():
            passes.make(lambda: reference.run(model, forward))
    except TeamError:
        raise
    except Exception as error:
        raise ValueError(
            f"The model does not accept the given batch: {type(error).__name__}: {error}. "
            "Expected a batch as the model's forward takes it: a tensor; a tuple of "
            "positional arguments; a mapping of keyword arguments; or pass "
            "forward=(model, batch)."
        ) from error
