"""What torch's functions are called, and what they do to a tensor."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from svdhooks.flow.graph import Kind

_ACTIVATIONS = frozenset((
    *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("hardswish", "hardsigmoid", "hardtanh", "sigmoid", "expit", "logsigmoid"),
    *("log_sigmoid", "tanh", "softplus", "softsign", "tanhshrink", "softshrink"),
    *("hardshrink", "threshold", "rrelu", "prelu", "abs", "exp", "expm1", "log"),
    *("log1p", "sqrt", "rsqrt", "sin", "cos", "square", "pow", "erf", "clamp"),
    *("clip", "clamp_min", "clamp_max", "maximum", "minimum", "where", "masked_fill"),
    *("sign", "round", "floor", "ceil", "reciprocal", "sgn", "heaviside", "atan"),
    *("arctan", "sinh", "cosh", "asinh", "nan_to_num", "gt", "lt", "ge", "le", "eq"),
    *("ne", "greater", "less", "greater_equal", "less_equal", "logical_not"),
))
_ARITHMETIC = frozenset((
    *("add", "sub", "subtract", "rsub", "mul", "multiply", "div", "divide"),
    *("true_divide", "rdiv", "neg", "negative", "positive", "truediv", "rtruediv"),
    *("radd", "rmul", "addcmul", "addcdiv", "lerp"),
))
_COPIES = frozenset((
    *("to", "type_as", "clone", "contiguous", "detach", "data", "float", "half"),
    *("double", "bfloat16", "type", "cpu", "cuda", "alias", "as_subclass"),
))
_RESHAPES = frozenset((
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as"),
    *("reshape_as", "ravel"),
))
_NORMS = frozenset((
    *("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"),
    *("native_layer_norm", "normalize", "local_response_norm", "native_batch_norm"),
    *("native_group_norm",),
))
_POOLS = (
    "max_pool",
    "avg_pool",
    "lp_pool",
    "adaptive_max_pool",
    "adaptive_avg_pool",
    "fractional_max_pool",
)
_FIRST_ALONE = frozenset((*("type_as", "to", "view_as", "reshape_as", "expand_as"),))
_DIM_AT = {
    **dict.fromkeys(("norm", "vector_norm", "linalg_vector_norm"), 2),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "nanmean"), 1),
    **dict.fromkeys(("var", "std", "var_mean", "std_mean", "logsumexp"), 1),
}
"""Reductions, and where in a call the axes stand that are reduced."""

_NO_VALUES = frozenset((
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like"),
    *("randn_like", "randint_like", "new_zeros", "new_ones", "new_empty", "new_full"),
    *("new_tensor",),
))


def name_of(function: Any) -> str:
    """What an operation is called, in all its forms.

    Args:
        function: A function, method or property of torch.

    Returns:
        ``"relu"`` of ``relu``, ``relu_``, ``Tensor.relu`` and ``aten.relu.default``.
    """
    name = getattr(function, "__name__", None) or type(function).__name__
    if name in {"__get__", "__set__"}:  # of a property such as Tensor.T
        name = getattr(getattr(function, "__self__", None), "__name__", name)
    name = str(name).partition(".")[0]
    if name.startswith("__") and name.endswith("__"):
        inner = name.strip("_")
        return inner[1:] if inner in _IN_PLACE else inner
    return name.rstrip("_") or name


_IN_PLACE = frozenset((*("iadd", "isub", "imul", "idiv", "itruediv", "ipow"),))


def works_number_by_number(name: str) -> bool:
    """Whether an operation does so, on tensors that it broadcasts to one shape.

    Args:
        name: As `name_of` says.

    Returns:
        True for activations and for arithmetic.
    """
    return name in _ACTIVATIONS or name in _ARITHMETIC


def valued(name: str, entering: Sequence[Tensor]) -> Sequence[Tensor]:
    """The tensors whose values a result depends on, and not their shapes alone.

    Args:
        name: As `name_of` says.
        entering: All that enter.

    Returns:
        Some of them, in order.
    """
    if name in _NO_VALUES:
        return ()
    return entering[:1] if name in _FIRST_ALONE else entering


def rounds(name: str) -> bool:
    """Whether integers that it puts out are none of the numbers that entered.

    Args:
        name: As `name_of` says.

    Returns:
        True for copies, which are rounded, for maxima and pooling, which tell places.
    """
    return name in _COPIES or name in {"max", "min"} or name.startswith(_POOLS)


def reduces(name: str) -> bool:
    """Whether an operation puts one number in the place of all along some axes.

    Args:
        name: As `name_of` says.

    Returns:
        True for sums, means, maxima, norms.
    """
    return name in _DIM_AT


def axes_of(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[int, ...] | None:
    """The axes that a call reduces, or makes longer or shorter at their ends.

    Args:
        name: As `name_of` says.
        args: Of the call.
        kwargs: Of the call.

    Returns:
        As the call counts them; None for other operations, and where it does not say.
    """
    if name == "pad":
        pads = kwargs.get("pad", args[1] if len(args) > 1 else None)
        if not _are_integers(pads):
            return None
        return tuple(-1 - i // 2 for i, size in enumerate(pads) if size)
    if name not in _DIM_AT:
        return None
    at = _DIM_AT[name]
    given = kwargs.get("dim", kwargs.get("axis", args[at] if len(args) > at else None))
    # True would be whether a variance is unbiased
    axes = (given,) if type(given) is int else given
    return tuple(axes) if _are_integers(axes) and axes else None


def _are_integers(given: Any) -> bool:
    return isinstance(given, (tuple, list)) and all(type(i) is int for i in given)


def kind_of(
    name: str,
    shape: tuple[int, ...],
    data: Sequence[Tensor],
    constants: Sequence[Tensor],
) -> Kind:
    """What kind of operation it is.

    Args:
        name: As `name_of` says.
        shape: Of the result.
        data: Tensors that entered and depend on an input.
        constants: Those that do not.

    Returns:
        ``"activation"`` and ``"arithmetic"`` only where it works number by number.
    """
    if name in _COPIES:
        return "copy"
    if name in _RESHAPES:
        return "reshape"
    if name in _NORMS:
        return "normalisation"
    if name.startswith(_POOLS):
        return "pooling"
    if name not in _ACTIVATIONS | _ARITHMETIC:
        return "other"
    single = name == "prelu" or all(x.numel() == 1 for x in constants)
    if not single or any(tuple(x.shape) != shape for x in data):
        return "other"
    return "activation" if name in _ACTIVATIONS else "arithmetic"


def memory_of(tensor: Tensor) -> int | None:
    """Which memory a tensor lies in.

    Args:
        tensor: The tensor.

    Returns:
        The same number for all that share it; None for what has none of its own.
    """
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, or a wrapper of torch.func
        return None


def strides_of_view(
    before: Tensor, after: Tensor
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The strides of a view, which say which of its axes is which of the other's.

    Args:
        before: What entered an operation.
        after: What came out.

    Returns:
        Strides after and before; empty where it is no view.
    """
    memory = memory_of(after)
    if after is before or memory is None or memory != memory_of(before):
        return (), ()
    try:
        return after.stride(), before.stride()
    except RuntimeError:  # nested
        return (), ()
