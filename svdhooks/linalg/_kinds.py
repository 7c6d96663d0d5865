"""What is given to functions of tensors: that it is one."""

from typing import Any

from torch import Tensor


def tensor(values: Any, what: str) -> Tensor:
    """The same, if it is a tensor.

    Args:
        values: Whatever was given.
        what: What it should be, with its article.

    Returns:
        The tensor.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(values, Tensor):
        raise TypeError(
            f"Found {what} of type {type(values).__name__}, expected a tensor. Convert "
            "with torch.as_tensor(...)."
        )
    return values
