"""FSDP2 in a forward on the side of the training: it is afterwards as it was before.

Every process runs the forward, since each all-gather waits for all of them. Where one of
them fails in the middle, it takes part in the remaining all-gathers without computing.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed, nn

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
    others wait for it. Their order is that of an earlier forward. In the first one of a
    purpose each process announces what it gathers, which costs two small collectives per
    module of FSDP2.

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
    order = orders.get(purpose)
    crier = _Crier.of(groups) if order is None else None
    try:
        for index, group in enumerate(groups):
            group.reduce_grads = False  # those of the training are not finished by us
            if group.is_unsharded:
                group.post_forward_mesh_info = None  # it is not to be resharded
            for call in ("unshard", "reshard"):
                method = getattr(group, call)
                vars(group)[call] = _noted(method, (call, index), events, crier)
        try:
            yield
        except Exception as error:
            rest = _remaining(order, events, error) if crier is None else crier.heard()
            _make_up(model, groups, rest, error)
            if crier is not None and crier.ended:
                orders[purpose] = crier.said
            raise
        if crier is not None:
            crier.end()
        orders[purpose] = _one_forward(events, order or [])
    finally:
        _settle(groups, states)
        for group in sharded:
            if not group.is_sharded:
                group._to_sharded()
        for part in kept:
            part.restore()


def _noted(
    method: Callable[..., Any],
    event: Event,
    events: list[Event],
    crier: "_Crier | None",
) -> Callable[..., Any]:
    """A method that says when it is done, and before if somebody may need to know."""

    def call(*args: Any, **kwargs: Any) -> Any:
        if crier is not None:
            crier.say(event)
        found = method(*args, **kwargs)
        events.append(event)
        if crier is not None:
            crier.done()
        return found

    return call


class _Crier:
    """Tells the processes that gather together what comes next, and hears it.

    Args:
        groups: All groups of parameters.
        process_group: Of those that gather together.

    Attributes:
        said: What was announced and done, in order.
        ended: Whether a process came to the end of its forward.
    """

    def __init__(self, groups: list[Any], process_group: Any) -> None:
        self.said: list[Event] = []
        self.ended = False
        self._pending: Event | None = None
        self._end = 2 * len(groups)
        self._process_group = process_group
        # made now: there may be no memory later
        self._number = torch.zeros(1, dtype=torch.int64, device=groups[0].device)

    @classmethod
    def of(cls, groups: list[Any]) -> "_Crier | None":
        """One for a model.

        Args:
            groups: All groups of parameters.

        Returns:
            None where nothing is gathered, or not by the same processes everywhere.
        """
        infos = [group.mesh_info for group in groups]
        several = {id(x): x for x in (_process_group(info) for info in infos)}
        found = next(iter(several.values()), None)
        if len(several) != 1 or found is None or found.size() == 1:
            return None
        return cls(groups, found)

    def say(self, event: Event) -> None:
        """Announce what this process does next; collective."""
        call, index = event
        self._pending = event
        self._meet(2 * index + (call == "reshard"))

    def done(self) -> None:
        """What was announced is done."""
        if self._pending is not None:
            self.said.append(self._pending)
        self._pending = None

    def end(self) -> None:
        """Announce that this forward is over; collective."""
        self._meet(self._end)

    def heard(self) -> Iterator[Event]:
        """What the others do, until none of them does anything; collective.

        Yields:
            Each before they do it, at first what this process announced and did not do.
        """
        if self._pending is not None:
            yield self._pending
            self.done()
        while True:
            self._meet(-1)
            number = int(self._number.item())
            if not 0 <= number < self._end:
                self.ended = number == self._end
                return
            self._pending = ("reshard" if number % 2 else "unshard", number // 2)
            yield self._pending
            self.done()

    def _meet(self, number: int) -> None:
        with torch.no_grad(), torch._C._DisableFuncTorch():
            self._number.fill_(number)
            operation = distributed.ReduceOp.MAX
            distributed.all_reduce(self._number, operation, self._process_group)


def _process_group(mesh_info: Any) -> Any:
    """The processes that hold the parts of a parameter; None if all hold it whole."""
    return getattr(mesh_info, "shard_process_group", None)


# --- a process that failed -------------------------------------------------------------


def _one_forward(events: list[Event], known: list[Event]) -> list[Event]:
    """The events of one forward: what repeats a known order is that order."""
    times, rest = divmod(len(events), len(known)) if known else (0, 0)
    return known if times > 1 and not rest and events == known * times else events


def _remaining(
    order: list[Event] | None, done: list[Event], error: Exception
) -> Sequence[Event]:
    """What the other processes still do in their forward."""
    order = order or []
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
    model: nn.Module, groups: list[Any], events: Iterable[Event], error: Exception
) -> None:
    """Take part in the all-gathers of a forward without computing it."""
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
