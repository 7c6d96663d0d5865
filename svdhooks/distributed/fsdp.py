"""FSDP2 in a forward on the side of the training: it is afterwards as it was before.

Every process runs the forward, since each all-gather waits for all of them. Where one of
them fails in the middle, it takes part in the remaining all-gathers without computing.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from svdhooks.layers.sharding import groups_of, shard_states

Event = tuple[str, int]
"""What was called, ``"unshard"`` or ``"reshard"``, of which group of parameters."""

_ORDERS: "weakref.WeakKeyDictionary[nn.Module, dict[str, list[Event]]]" = (
    weakref.WeakKeyDictionary()
)


@contextmanager
def shards_kept(model: nn.Module, purpose: str = "forward") -> Iterator[None]:
    """Let a forward of a model of FSDP2 leave no trace, whether it succeeds or fails.

    Parameters that were sharded before are sharded again afterwards: FSDP2 itself leaves
    those of the root gathered. Those that were gathered stay so, also meanwhile. What
    FSDP2 initialises at the first forward of a training is not initialised by this one.

    After an exception inside, this process makes up for the all-gathers in which the
    others wait for it. Their order is that of an earlier forward; of the first one, that
    in which the modules are registered.

    Args:
        model: The module that is called inside, once; one without FSDP2 is left alone.
        purpose: Forwards of one purpose gather in the same order.

    Yields:
        Nothing.
    """
    states = shard_states(model)
    if not states:
        yield
        return
    groups = [group for state in states for group in groups_of(state)]
    kept = [_Kept(part) for part in _parts(states)]
    sharded = [group for group in groups if group.is_sharded]
    events: list[Event] = []
    orders = _ORDERS.setdefault(model, {})
    try:
        for index, group in enumerate(groups):
            group.reduce_grads = False  # those of the training are not finished by us
            if group.is_unsharded:
                group.post_forward_mesh_info = None  # it is not to be resharded
            for call in ("unshard", "reshard"):
                vars(group)[call] = _noted(getattr(group, call), (call, index), events)
        try:
            yield
        except Exception as error:
            order = orders.get(purpose) or _registered_order(model, groups)
            _make_up(model, groups, _remaining(order, events, error), error)
            raise
        orders[purpose] = _one_forward(events, orders.get(purpose, []))
    finally:
        _settle(groups, states)
        for group in sharded:
            if not group.is_sharded:
                group._to_sharded()
        for part in kept:
            part.restore()


def _noted(
    method: Callable[..., Any], event: Event, events: list[Event]
) -> Callable[..., Any]:
    """A method that says when it was done."""

    def call(*args: Any, **kwargs: Any) -> Any:
        found = method(*args, **kwargs)
        events.append(event)
        return found

    return call


# --- a process that failed -------------------------------------------------------------


def _one_forward(events: list[Event], known: list[Event]) -> list[Event]:
    """The events of one forward: what repeats a known order is that order."""
    times, rest = divmod(len(events), len(known)) if known else (0, 0)
    return known if times > 1 and not rest and events == known * times else events


def _remaining(
    order: list[Event], done: list[Event], error: Exception
) -> Sequence[Event]:
    """What the other processes still do in their forward."""
    begun = len(done) % len(order) if order and done else 0
    if done and not begun:
        return []
    if done[len(done) - begun :] != order[:begun]:
        error.add_note(
            "svdhooks: other processes may wait for this one until the time limit of "
            "their process group: FSDP gathers parameters in an order that is not known"
        )
        return []
    return order[begun:]


def _make_up(
    model: nn.Module, groups: list[Any], events: Sequence[Event], error: Exception
) -> None:
    """Take part in the all-gathers of a forward without computing it."""
    if not events:
        return
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        _let_go(error)
    forward = type(groups[0]._training_state).FORWARD
    with torch.no_grad():
        for state in shard_states(model):
            state._lazy_init()  # only the first of a tree does anything
        for call, index in events:
            group = groups[index]
            with group.use_training_state(forward):
                getattr(type(group), call)(group)
                if call == "unshard":
                    group.wait_for_unshard()


def _let_go(error: BaseException) -> None:
    """Free what the frames of a failed forward hold; gathering needs the memory."""
    import traceback

    traceback.clear_frames(error.__traceback__)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def _registered_order(model: nn.Module, groups: list[Any]) -> list[Event]:
    """The order of a forward that calls each module once, as they are registered."""
    index = {id(group): i for i, group in enumerate(groups)}
    seen: set[int] = set()
    events: list[Event] = []

    def visit(module: Any) -> None:
        state = module._get_fsdp_state() if hasattr(module, "_get_fsdp_state") else None
        own: list[int] = []
        if state is not None and id(state) not in seen:
            own = [index[id(group)] for group in groups_of(state)]
            seen.add(id(state))
            events.extend(("unshard", i) for i in own)
            for ahead in state._states_to_forward_prefetch:
                several = groups_of(ahead)
                events.extend(("unshard", index[id(group)]) for group in several)
        for child in module.children():
            visit(child)
        events.extend(("reshard", i) for i in own)

    visit(model)
    return events


# --- what is put back ------------------------------------------------------------------


def _settle(groups: list[Any], states: list[Any]) -> None:
    """Wait for what was begun, before its memory is freed."""
    for group in groups:
        if group._all_gather_result is not None and group.is_sharded:
            group.wait_for_unshard()
    for context in {id(s._comm_ctx): s._comm_ctx for s in states}.values():
        pending = getattr(context, "all_gather_state", None)
        if pending is not None and pending.event is not None:
            context.all_gather_copy_in_stream.wait_event(pending.event)
            context.all_gather_stream.wait_event(pending.event)


def _parts(states: list[Any]) -> list[Any]:
    """The objects in which FSDP2 keeps its state; contexts are shared."""
    found: list[Any] = []
    for state in states:
        found += [state, state._state_ctx, state._comm_ctx]
        for group in groups_of(state):
            found += [group, group.comm_ctx]
            if state._is_root is None:  # a forward would initialise them
                found += group.fsdp_params
    return list({id(part): part for part in found}.values())


class _Kept:
    """The attributes of an object and what its containers held."""

    def __init__(self, part: Any) -> None:
        self._part = part
        self._attributes = dict(vars(part))
        self._contents = [
            (container, container.copy())
            for container in self._attributes.values()
            if type(container) in (list, dict, set)
        ]

    def restore(self) -> None:
        """Put them back."""
        now = vars(self._part)
        now.clear()
        now.update(self._attributes)
        for container, before in self._contents:
            if isinstance(container, dict):
                for key in container.keys() - before.keys():
                    if hasattr(container[key], "remove"):
                        container[key].remove()  # a hook on the state_dict
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(
                before
            )
