"""Random networks whose layers read what others write, in order or mixed up."""

import itertools
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Way = tuple[str, Callable[[Tensor], Tensor], str]

# layout -> what keeps features in order, and the layout after it
KEEPING: dict[str, list[Way]] = {
    "nchw": [
        ("max pool", lambda x: F.max_pool2d(x, 2, ceil_mode=True), "nchw"),
        ("pool to one", lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1), "nc"),
        ("mean", lambda x: x.mean((2, 3)), "nc"),
        ("mean, kept", lambda x: x.mean((-2, -1), keepdim=True), "nchw"),
        ("sums", lambda x: x.sum(-1).mean(-1), "nc"),
        ("flatten", lambda x: x.flatten(1), "nc"),
        ("tokens", lambda x: x.flatten(2).transpose(1, 2), "nlc"),
        ("pad", lambda x: F.pad(x, (1, 1, 0, 2)), "nchw"),
        ("there and back", lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2), "nchw"),
        ("crop", lambda x: x[:, :, :3, ::2], "nchw"),
        ("maximum", lambda x: x.max(dim=3)[0], "ncl"),
        ("upsample", lambda x: F.interpolate(x, scale_factor=2), "nchw"),
    ],
    "ncl": [
        ("transpose", lambda x: x.transpose(1, 2), "nlc"),
        ("mean", lambda x: x.mean(dim=-1), "nc"),
        ("flatten", lambda x: x.flatten(1), "nc"),
        ("last", lambda x: x[..., -1], "nc"),
        ("pool", lambda x: F.avg_pool1d(x, 2, ceil_mode=True), "ncl"),
        ("causal pad", lambda x: F.pad(x, (2, 0)), "ncl"),
        ("as a map", lambda x: x.unsqueeze(-1), "nchw"),
    ],
    "nlc": [
        ("permute", lambda x: x.permute(0, 2, 1), "ncl"),
        ("mean", lambda x: x.mean(1), "nc"),
        ("first", lambda x: x[:, 0], "nc"),
        ("samples", lambda x: x.reshape(-1, x.shape[-1]), "nc"),
        ("shift", lambda x: F.pad(x, (0, 0, 1, -1)) + x, "nlc"),
        (
            "class token",
            lambda x: torch.cat([x.new_ones(len(x), 1, x.shape[2]), x], 1),
            "nlc",
        ),
    ],
    "nc": [
        ("position", lambda x: x.unsqueeze(1), "nlc"),
        ("map", lambda x: x[:, :, None, None], "nchw"),
        ("spread", lambda x: x.unsqueeze(1).expand(-1, 3, -1), "nlc"),
    ],
}
ANYWHERE: list[Callable[[Tensor], Tensor]] = [
    F.gelu,
    torch.tanh,
    lambda x: x * torch.sigmoid(x),
    lambda x: torch.where(x > 0, x, 0.3 * x),
    lambda x: (2.0 * x).type_as(x + 1),
    lambda x: F.dropout(x, 0.1, training=False),
]
# what moves features along their axis, or mixes them
SPOILING: dict[str, Callable[[Tensor, int], Tensor]] = {
    "roll": lambda x, axis: x.roll(1, axis),
    "flip": lambda x, axis: x.flip(axis),
    "index": lambda x, axis: x.index_select(axis, torch.arange(x.shape[axis]).flip(0)),
    "cumsum": lambda x, axis: x.cumsum(axis),
    "shift": lambda x, axis: F.pad(x, (*(0, 0) * (x.ndim - 1 - axis), 1, -1)),
    "swapped": lambda x, axis: x.transpose(0, axis).contiguous().view(x.shape),
    "sum": lambda x, axis: x.sum(axis, keepdim=True).expand_as(x),
    "pattern": lambda x, _: torch.ones(x.shape[-1]).expand_as(x),
    "other order": lambda x, _: x.reshape(x.shape[::-1]).mT.reshape(x.shape),
    "matrix": lambda x, _: x @ torch.ones(x.shape[-1], x.shape[-1]).triu(),
}


class Chain(nn.Module):
    """Layers one after the other, and what is between them."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Callable[[Tensor], Tensor]] = []
        self.ways: list[str] = []
        self.spoilt = False

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x

    def add(self, name: str, step: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """One more step, and what it makes of x."""
        self.steps.append(step)
        self.ways.append(name)
        return step(x)


def random_chain(draw: random.Random) -> tuple[Chain, Tensor]:
    """A chain of layers with four outputs each, and its input."""
    net, layout = Chain(), draw.choice(list(KEEPING))
    # as many samples, positions and features: the shapes tell nothing
    first = x = torch.randn([4] * len(layout))
    for number in range(draw.randint(2, 5)):
        layer: nn.Module = nn.Linear(x.shape[-1], 4)
        if layout in {"ncl", "nchw"}:
            kind = nn.Conv1d if layout == "ncl" else nn.Conv2d
            layer = kind(x.shape[1], 4, 3, padding=1)
        net.add_module(f"layer{number}", layer)
        x = net.add(f"layer{number}", layer, x)
        for _ in range(draw.randint(0, 3)):
            name, step, layout = draw.choice(KEEPING[layout])
            x = net.add("activation", draw.choice(ANYWHERE), net.add(name, step, x))
        if draw.random() < 0.3:
            axis = layout.index("c")
            name, spoil = draw.choice(list(SPOILING.items()))
            x = net.add(name, lambda x, spoil=spoil, axis=axis: spoil(x, axis), x)
            net.spoilt = True
    return net, first


def aligned(net: nn.Module, x: Tensor) -> dict[tuple[str, str], bool]:
    """Layer, and the next one -> whether that reads feature by feature what this wrote.

    Entries c·z … (c+1)·z of what the next one reads then depend on feature c alone.
    """
    seen: list[tuple[str, Tensor, Tensor, int]] = []
    hooks = []
    for name, module in net.named_children():
        axis = {nn.Linear: -1, nn.Conv1d: -2, nn.Conv2d: -3}[type(module)]

        def note(
            _: Any, args: Any, output: Tensor, name: str = name, axis: int = axis
        ) -> Tensor:
            cut = output.detach().requires_grad_()
            seen.append((name, args[0], cut, axis))
            return cut

        hooks.append(module.register_forward_hook(note))
    net(x)
    for hook in hooks:
        hook.remove()
    return {
        (earlier, later): _is_aligned(written, axis, read, reads)
        for (earlier, _, written, axis), (later, read, _, reads) in itertools.pairwise(
            seen
        )
    }


def _is_aligned(written: Tensor, axis: int, read: Tensor, reads: int) -> bool:
    if not read.requires_grad:
        return False
    entries = read.movedim(reads, 0).flatten(1)
    weights = torch.randn_like(entries)
    reached = []
    for entry, weight in zip(entries, weights, strict=True):
        (slope,) = torch.autograd.grad(
            (entry * weight).sum(), written, retain_graph=True
        )
        reached.append(slope.movedim(axis, 0).flatten(1).abs().sum(1) > 0)
    found = torch.stack(reached)
    positions, rest = divmod(len(found), found.shape[1])
    if rest:
        return False
    own = torch.eye(found.shape[1], dtype=torch.bool).repeat_interleave(positions, 0)
    return not bool((found & ~own).any())
