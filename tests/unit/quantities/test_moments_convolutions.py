"""Moments of what enters convolutions, against patches that torch cuts out."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import svdhooks
from svdhooks.layers import PointValue
from svdhooks.layers.patches import patches
from svdhooks.linalg import _solvers
from tests.unit.quantities.test_moments import check, moment, observer

CONVOLUTIONS = [
    nn.Conv2d(3, 5, 3),
    nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False),
    nn.Conv2d(3, 5, (2, 3), padding=(1, 0), dilation=(2, 1)),
    nn.Conv2d(3, 5, 3, padding="same", dilation=2),
    nn.Conv2d(3, 5, 3, padding=(1, 2), padding_mode="circular"),
    nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect", stride=(1, 2)),
    nn.Conv2d(3, 5, 1),
]


def unfolded(module: nn.Conv2d, maps: Tensor) -> Tensor:
    """Patches as rows by torch.nn.functional.unfold; it pads with zeros only."""
    sides, mode = module._reversed_padding_repeated_twice, module.padding_mode
    maps = functional.pad(maps, sides, mode="constant" if mode == "zeros" else mode)
    cut = functional.unfold(
        maps, module.kernel_size, dilation=module.dilation, stride=module.stride
    )
    return cut.mT.flatten(0, 1)


@pytest.mark.parametrize("number", range(len(CONVOLUTIONS)))
@pytest.mark.parametrize("limit", [2**25, 600, 1], ids=["whole", "rows", "patches"])
def test_a_convolution_is_entered_by_patches(
    number: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_solvers, "COPY_BYTES", limit)
    module, batch = CONVOLUTIONS[number], 1.0 + torch.randn(4, 3, 7, 8)
    seen, layer = observer(module)
    with torch.no_grad():
        leaving = module(batch)
    seen.receive(
        layer, {"input": PointValue(batch, -3), "output": PointValue(leaving, -3)}
    )
    sink = svdhooks.MemorySink([*seen.records()])
    found, left = moment(sink, layer.name, "input"), moment(sink, layer.name, "output")
    check(found, unfolded(module, batch))
    check(left, leaving.movedim(1, -1).flatten(0, 2))
    # the weight takes the moment of what enters to that of what leaves
    assert found is not None
    W = module.weight.detach().flatten(1).double().numpy()
    bias = None if module.bias is None else module.bias.detach().numpy()
    assert left is not None
    through = W @ found.second_moment() @ W.T
    np.testing.assert_allclose(through, left.second_moment(bias), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv1d(4, 6, 5, padding=1, stride=3), (5, 4, 17)),
        (nn.Conv3d(2, 3, 2, padding=1), (3, 2, 4, 5, 4)),
        (nn.Conv2d(3, 5, 3), (3, 7, 8)),
    ],
    ids=["1d", "3d", "no batch"],
)
@pytest.mark.parametrize("limit", [2**25, 100])
def test_the_weight_times_the_patches_is_the_output(
    module: Any, shape: tuple[int, ...], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_solvers, "COPY_BYTES", limit)
    module, maps = module.double(), torch.randn(shape, dtype=torch.float64)
    parts = list(patches(module, maps))
    assert (len(parts) > 1) == (limit == 100)
    with torch.no_grad():
        leaving = torch.cat(parts) @ module.weight.flatten(1).T + module.bias
        expected = module(maps)
    axis = -(len(module.kernel_size) + 1)
    torch.testing.assert_close(leaving, expected.movedim(axis, -1).flatten(0, -2))


def test_parts_of_patches_are_never_larger_than_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, maps = nn.Conv2d(4, 2, 3, padding=1), torch.randn(3, 4, 20, 30)
    monkeypatch.setattr(_solvers, "COPY_BYTES", 8 * 36 * 70)
    parts = list(patches(module, maps))
    assert sum(map(len, parts)) == 3 * 20 * 30
    assert max(map(len, parts)) <= 70
    assert len(parts) < 3 * 20 * 30 / 20  # and not one by one


def test_no_maps_have_no_patches() -> None:
    parts = list(patches(nn.Conv2d(4, 2, 3), torch.zeros(0, 4, 5, 5)))
    assert [part.shape for part in parts] == [(0, 36)]
