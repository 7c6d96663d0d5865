"""The arguments of a model's next training call, also where the model is compiled.

No hook does this. A hook on a model that is compiled in place is traced into its graph
or never called, and one on a model that a compiled function calls is guarded: its
removal costs a second compilation. ``nn.Module.__call__`` asks one attribute of the
instance before all hooks, ``_compiled_call_impl``, outside of what is compiled. Dynamo
never looks at it where a module has no hooks, and copies and pickles leave it out.
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any, no_type_check

import torch
from torch import nn

Deliver = Callable[[tuple[Any, ...], Mapping[str, Any]], None]

_SLOT = "_compiled_call_impl"
_ASKING = nn.Module._wrapped_call_impl.__code__


class Capture:
    """Stands before the calls of a module until the first one in training mode.

    Args:
        model: The object that the training loop calls.
        deliver: Called once, with the positional and the keyword arguments.
    """

    def __init__(self, model: nn.Module, deliver: Deliver) -> None:
        self._model = model
        self._deliver: Deliver | None = deliver
        self._before: Callable[..., Any] | None = model.__dict__.get(_SLOT)
        # not setattr: a wrapper of torch.compile would hand it on to what it wraps
        model.__dict__[_SLOT] = self

    @property
    def displaced(self) -> bool:
        """Whether the model was compiled in place meanwhile, which ends the capture."""
        return self._deliver is not None and self not in _chain(self._model)

    def remove(self) -> None:
        """Leave the model's calls as they were; may be called more than once."""
        self._deliver = None  # let go of: it holds its owner
        slot = self._model.__dict__
        top = slot.get(_SLOT)
        while isinstance(top, Capture) and top._deliver is None:
            top = top._before  # those below may have ended earlier
        if top is None:
            slot.pop(_SLOT, None)
        else:
            slot[_SLOT] = top

    @no_type_check  # what checks types at run time would be compiled with the model
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module; show the arguments first."""
        if torch.compiler.is_compiling():  # traced: nothing of ours belongs in a graph
            return (self._before or self._model._call_impl)(*args, **kwargs)
        module = _calling(self._model)
        if module.training and self._deliver is not None:
            _outside_of_compilation(self._take)(args, kwargs)
        if module is not self._model:
            return module._call_impl(*args, **kwargs)
        return (self._before or module._call_impl)(*args, **kwargs)

    def _take(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        deliver = self._deliver
        self.remove()  # first: deliver may raise
        if deliver is not None:
            deliver(args, kwargs)

    # a copy of the model listens to nothing, whichever way it is made

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None

    def __copy__(self) -> None:
        return None

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _nothing, ()


def capture_next_call(model: nn.Module, deliver: Deliver) -> Capture:
    """Hand the arguments of the model's next call in training mode to ``deliver``.

    The model may be compiled in any way, also after this. Not seen are calls that are
    traced: those of a compiled function, and of a plain container within a wrapper of
    ``torch.compile`` that is not the object given here.

    Args:
        model: The object that the training loop calls.
        deliver: Called once, with the positional and the keyword arguments.

    Returns:
        What ends it; it ends by itself at that call.
    """
    return Capture(model, deliver)


def compiled_in_place(module: nn.Module) -> bool:
    """Whether ``module.compile()`` was called.

    Args:
        module: Any module, also one that is being listened to.

    Returns:
        Whether its calls are compiled.
    """
    impl = getattr(module, _SLOT, None)
    while isinstance(impl, Capture):
        impl = impl._before
    return impl is not None


def _chain(model: nn.Module) -> list[Capture]:
    """All that stand before the calls of a module now, the outermost first."""
    found: list[Capture] = []
    top = model.__dict__.get(_SLOT)
    while isinstance(top, Capture):
        found.append(top)
        top = top._before
    return found


@no_type_check
def _calling(model: nn.Module) -> nn.Module:
    """The module whose ``__call__`` asked us."""
    # DataParallel's replicas share all attributes of the original, and nothing binds
    # those to them
    frame = sys._getframe(2)
    caller = frame.f_locals.get("self") if frame.f_code is _ASKING else None
    return model if caller is None else caller


@no_type_check
def _outside_of_compilation(take: Callable[..., None]) -> Callable[..., None]:
    """What dynamo leaves alone: it looks at every frame below a compiled wrapper."""
    return torch.compiler.disable(take) if "torch._dynamo" in sys.modules else take


def _nothing() -> None:
    """What a pickled capture becomes."""


def _never_compiled(*functions: Any) -> None:
    """Keep dynamo from compiling these functions, but not what they call.

    ``torch.compiler.disable(recursive=False)`` does this too; it imports dynamo, which
    takes a second, and it breaks the graph where it is traced. What it calls has had
    two names; with neither, a model compiled after `watch` is compiled once more.
    """
    frames = torch._C._dynamo.eval_frame
    for function in functions:
        if hasattr(frames, "set_code_exec_strategy"):
            action = frames._FrameAction
            alone = frames._FrameExecStrategy(action.SKIP, action.DEFAULT)
            frames.set_code_exec_strategy(function.__code__, alone)
        elif hasattr(frames, "skip_code"):
            frames.skip_code(function.__code__)


_never_compiled(Capture.__call__, _calling, _outside_of_compilation)
