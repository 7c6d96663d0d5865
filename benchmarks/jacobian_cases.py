"""Models whose Jacobians are taken, as functions of what is added to their input."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from models import Gpt, mlp, resnet
from torch import Tensor, nn

KINDS = (nn.Linear, nn.Conv2d)
Function = Callable[[Tensor], dict[str, Tensor]]


@dataclass
class Case:
    """A model, a batch, and in how many directions it is differentiated.

    Attributes:
        name: For tables.
        model: In evaluation mode.
        batch: What enters.
        directions: None: all of them.
        root: The module whose output is the input point; None: the batch itself.
        training: A batch of training, and what it is in words.
    """

    name: str
    model: nn.Module
    batch: Tensor
    directions: int | None
    training: tuple[Tensor, str]
    root: nn.Module | None = None
    layers: dict[str, nn.Module] = field(init=False)

    def __post_init__(self) -> None:
        named = self.model.named_modules()
        self.layers = {name: part for name, part in named if isinstance(part, KINDS)}

    def point(self) -> Tensor:
        """Zeros, to be added to the input point."""
        with torch.no_grad():
            entering = self.root(self.batch) if self.root else self.batch
        return torch.zeros_like(entering)

    def function(self, start: str | None = None) -> Function:
        """From delta to all pre-activations; delta is added at the start layer."""

        def outputs_of(delta: Tensor) -> dict[str, Tensor]:
            found: dict[str, Tensor] = {}
            with self._hooked(found, delta, start):
                self.model(self.batch if self.root or start else self.batch + delta)
            return found

        return outputs_of

    def output(self, name: str, entering: Tensor) -> Tensor:
        """One pre-activation for inputs of which the model is given nothing else."""
        found: dict[str, Tensor] = {}

        def keep(_module: nn.Module, _args: object, out: Tensor) -> None:
            found[name] = out.flatten(1).clone()

        handles = [self.layers[name].register_forward_hook(keep)]
        if self.root is not None:
            replace = self.root.register_forward_hook(lambda _m, _a, _out: entering)
            handles.append(replace)
        try:
            self.model(entering if self.root is None else self.batch[:1])
        finally:
            for handle in handles:
                handle.remove()
        return found[name]

    @contextmanager
    def _hooked(
        self, found: dict[str, Tensor], delta: Tensor, start: str | None
    ) -> Iterator[None]:
        handles = []
        shifted = self.layers[start] if start else self.root
        if shifted is not None:
            shift = shifted.register_forward_hook(lambda _m, _a, out: out + delta)
            handles.append(shift)
        for name, layer in self.layers.items():

            def keep(
                _module: nn.Module, _args: object, out: Tensor, name: str = name
            ) -> None:
                # a copy: the activation behind may work in place
                found[name] = out.flatten(1).clone()

            handles.append(layer.register_forward_hook(keep))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def cases() -> dict[str, Case]:
    torch.manual_seed(0)
    chain = mlp(784, 200, 4)
    images = resnet(width=16)
    text = Gpt(vocabulary=256, length=32, width=64, depth=4, heads=4)
    for model in (chain, images, text):
        model.eval()
    tokens = torch.randint(0, 256, (36, 32))
    return {
        "mlp": Case(
            "MLP 784-200x4-10, 32 samples, all directions",
            chain,
            torch.randn(32, 784),
            None,
            (torch.randn(128, 784), "128 rows"),
        ),
        "resnet": Case(
            "ResNet-18 w16, 4 images 32x32, 32 directions",
            images,
            torch.randn(4, 3, 32, 32),
            32,
            (torch.randn(128, 3, 32, 32), "128 images"),
        ),
        "transformer": Case(
            "transformer 4L d64, 4 x 32 tokens, 32 directions",
            text,
            tokens[:4],
            32,
            (tokens[4:], "32 x 32 tokens"),
            root=text.tokens,
        ),
    }
