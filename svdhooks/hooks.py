"""The only file that registers hooks. Every hook has an owner that removes it."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.hooks import RemovableHandle

from svdhooks.distributed.tensor_parallel import is_rearranged, whole_values
from svdhooks.layers import Call, PointValue
from svdhooks.layers.tap import Watched
from svdhooks.originals import unwatched

Receive = Callable[[Watched, Mapping[str, PointValue]], None]
Fail = Callable[[Watched, Exception], None]


@contextmanager
def observed(
    layers: Sequence[Watched],
    receive: Receive,
    fail: Fail,
    when: Callable[[], bool] = lambda: True,
    within: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[None]:
    """Hand what passes the points of ``layers`` to ``receive``, call by call.

    The values are handed over inside the hook, before a successor can overwrite them
    in place. Autocast is off and no graph is recorded there. An error in ``receive``
    goes to ``fail`` and does not reach the model. Where tensor parallelism computes parts
    of an output on several processes, they are gathered: all of them call the model.

    Args:
        layers: Whose points to observe.
        receive: Called with layer and values; must not keep the tensors.
        fail: Called with the layer and the error.
        when: Asked at every call; calls for which it is False are not seen.
        within: Gives a context for all that is done in a hook.

    Yields:
        Nothing. All hooks are gone afterwards.
    """
    by_module: dict[int, list[Watched]] = {}
    for layer in layers:
        by_module.setdefault(id(layer.module), []).append(layer)

    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if not when():
            return
        with within(), unwatched(), torch.no_grad(), _autocast_off():
            # gathered at once: what fails on one process only comes after it
            call = Call(module, *whole_values((args, kwargs, output)))
            for layer in by_module[id(module)]:
                try:
                    receive(layer, layer.read(call))
                except Exception as error:  # noqa: BLE001  # a measurement may fail
                    fail(layer, error)

    with _forward_hooks([same[0].module for same in by_module.values()], hook):
        yield


@contextmanager
def observed_in_training(
    model: nn.Module,
    layers: Sequence[Watched],
    receive: Receive,
    fail: Fail,
    begin: Callable[[tuple[Any, ...], Mapping[str, Any]], None],
    within: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[None]:
    """The same in the training's own forward passes, while a window is open.

    Calls in evaluation mode and those which activation checkpointing repeats during
    the backward pass are not seen. A copy of the model made meanwhile is not observed.

    Args:
        model: The plain module; its own calls begin a batch.
        layers: Whose points to observe.
        receive: Called with layer and values; must not keep the tensors.
        fail: Called with the layer and the error.
        begin: Called with the arguments of each training call of ``model``.
        within: Gives a context for all that is done in a hook.

    Yields:
        Nothing. All hooks are gone afterwards.
    """

    @contextmanager
    def apart() -> Iterator[None]:
        # what looks at every operation must not see ours: selective checkpointing keeps
        # results by their order, and gives them out in that order in the backward pass
        with within(), _disable_current_modes():
            yield

    def training() -> bool:
        in_backward = torch._C._current_graph_task_id() != -1
        return model.training and not in_backward

    def at_call(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if training():
            with apart():
                begin(args, kwargs)

    handle = model.register_forward_pre_hook(_Uncopied(at_call), with_kwargs=True)
    try:
        with observed(layers, receive, fail, training, apart):
            yield
    finally:
        handle.remove()


@contextmanager
def differentiated(
    layers: Sequence[Watched],
    receive: Callable[[Watched, Call], None],
    point: nn.Module | None = None,
    change: Callable[[Any], Any] = lambda output: output,
) -> Iterator[None]:
    """Hand what passes ``layers`` to ``receive`` with its graph and its tangents.

    Args:
        layers: Whose calls to see.
        receive: Called with layer and call; copies what it keeps, since a successor may
            overwrite it in place.
        point: A module whose output is changed before anything else sees it.
        change: Output of ``point`` -> what takes its place.

    Yields:
        Nothing. All hooks are gone afterwards.
    """
    by_module: dict[int, list[Watched]] = {}
    for layer in layers:
        by_module.setdefault(id(layer.module), []).append(layer)
    modules = {id(layer.module): layer.module for layer in layers}
    if point is not None:
        modules[id(point)] = point

    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        found = change(output) if module is point else output
        with _autocast_off():
            for layer in by_module.get(id(module), ()):
                receive(layer, Call(module, args, kwargs, found))
        return found if module is point else None

    with _forward_hooks(list(modules.values()), hook):
        yield


@contextmanager
def count_calls(modules: Sequence[nn.Module]) -> Iterator[Mapping[int, int]]:
    """Count the forward calls of modules.

    Args:
        modules: Which ones; repeated entries count once.

    Yields:
        ``id(module)`` -> calls so far. All hooks are gone afterwards.
    """
    distinct = {id(module): module for module in modules}
    calls = dict.fromkeys(distinct, 0)

    def hook(module: nn.Module, *_: Any) -> None:
        calls[id(module)] += 1

    with _forward_hooks(list(distinct.values()), hook):
        yield calls


@contextmanager
def _forward_hooks(
    modules: Sequence[nn.Module], hook: Callable[..., Any]
) -> Iterator[None]:
    """Keep a forward hook on modules for a while."""
    handles: list[RemovableHandle] = []
    try:
        handles.extend(
            module.register_forward_hook(
                _Uncopied(hook), with_kwargs=True, prepend=is_rearranged(module)
            )
            for module in modules
        )
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _autocast_off() -> Iterator[None]:
    """Autocast would make every product in a hook bfloat16."""
    with ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """What a copied or unpickled hook does."""


def _copied() -> Callable[..., None]:
    return _nothing


class _Uncopied:
    """A hook that copies and pickles as a function that does nothing.

    So a copy of the model (an EMA, a checkpoint) is not observed.
    """

    def __init__(self, hook: Callable[..., Any]) -> None:
        self._hook = hook

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # a model that is compiled while it is observed gets nothing of ours into its graph
        if torch.compiler.is_compiling():
            return None
        return self._hook(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _nothing

    def __copy__(self) -> Callable[..., None]:
        return _nothing

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _copied, ()


def after_each_update(optimizer: Any, notify: Callable[[], None]) -> RemovableHandle:
    """Call ``notify`` after every real update of an optimiser.

    A step that a gradient scaler skips is no update; accumulation and learning-rate
    schedulers do not disturb the count. Limit: a fused optimiser under a gradient
    scaler decides on the device whether to skip; its skipped steps are counted, since
    asking would make the host wait for the device at every step.

    Args:
        optimizer: A torch optimiser; wrappers that keep one in ``.optimizer``
            (Lightning, Accelerate) are looked through.
        notify: Called without arguments.

    Returns:
        The handle.

    Raises:
        TypeError: If there is no torch optimiser to be found.
    """
    inner = optimizer
    # Accelerate's wrapper is an Optimizer that was never initialised as one
    while not _has_hooks(inner) and hasattr(inner, "optimizer"):
        inner = inner.optimizer
    if not _has_hooks(inner):
        raise TypeError(
            f"Found {type(optimizer).__name__} as optimizer=; expected a "
            "torch.optim.Optimizer."
        )

    # the base class has one too, that does nothing
    several = sum("step" in vars(kind) for kind in type(inner).__mro__) > 2

    def hook(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        if not (several and _within_a_step(optimizer)):
            notify()

    # a compiled step would have all that we do traced
    hidden = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
    handle: RemovableHandle = inner.register_step_post_hook(hidden)
    return handle


def _within_a_step(optimizer: Any) -> bool:
    """Whether the step that ends was called by another: ``super().step()``."""
    # both call the hooks; counts of what has begun go wrong where a step raises
    code = getattr(type(optimizer).step, "__code__", None)
    frame, steps = inspect.currentframe(), 0
    while frame is not None:
        if frame.f_code is code and frame.f_locals.get("self") is optimizer:
            steps += 1
        frame = frame.f_back
    return steps > 1


def _has_hooks(optimizer: Any) -> bool:
    return isinstance(optimizer, Optimizer) and hasattr(
        optimizer, "_optimizer_step_post_hooks"
    )
