"""Whether what was found out of a model is still so, by what is measured anyway."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from svdhooks.jacobians.function import PointAxis
from svdhooks.jacobians.ladder import judged
from svdhooks.jacobians.passes import StaleError
from svdhooks.jacobians.task import CHECKED, Task
from svdhooks.linalg.jacobian import errors_of


def confirming(
    task: Task,
    names: Sequence[str],
    point: PointAxis,
    samples: Sequence[int],
    directions: Tensor,
) -> Callable[[Mapping[str, Tensor]], None]:
    """The adjoint check of products, for the first few of their samples.

    Args:
        task: The model and what is known of it.
        names: The layers.
        point: The input point.
        samples: Of which products are taken.
        directions: In which they are.

    Returns:
        Given the products; raises `StaleError` if what is known cannot be so.
    """

    def check(products: Mapping[str, Tensor]) -> None:
        few = samples if task.study.way is None else samples[:CHECKED]
        function, at = task.function(names, point, few)
        generator = torch.Generator().manual_seed(3)
        mix = torch.randn(len(directions), generator=generator).to(directions)
        v = torch.tensordot(mix, directions, 1).expand_as(at)
        pushed = {
            name: (held[: len(at)] @ mix.to(held))[None]
            for name, held in products.items()
        }
        errors = errors_of(function, at, pushed, v[None])
        dtypes = {"": at.dtype} | {name: x.dtype for name, x in products.items()}
        wrong = {name: why for name, why in judged(errors, dtypes).items() if why}
        if wrong:
            raise StaleError(f"found to be wrong: {wrong}")

    return check
