"""Sums over the patches of convolutions, against patches that are cut out one by one."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from svdhooks.layers import find_layers
from svdhooks.layers.patches import convolution_of, patch_sums
from svdhooks.linalg import _solvers
from svdhooks.linalg.discarding import near_null_space, sample_sums


def patches(module: nn.Module, maps: Tensor) -> Tensor:
    """Every patch as a row, in the order of the flattened kernel."""
    sides = module._reversed_padding_repeated_twice
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = torch.nn.functional.pad(maps, sides, mode=mode)
    starts = []
    for axis, (k, s, d) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True)
    ):
        starts.append(range(0, padded.shape[axis + 2] - d * (k - 1), s))
    rows = []
    for start in itertools.product(*starts):
        place = tuple(
            slice(a, a + d * (k - 1) + 1, d)
            for a, k, d in zip(start, module.kernel_size, module.dilation, strict=True)
        )
        rows.append(padded[(..., *place)].flatten(1))
    return torch.cat(rows)


CONVOLUTIONS = [
    (nn.Conv2d(3, 5, 3), (4, 3, 9, 8)),
    (nn.Conv2d(3, 40, 3, padding=1, stride=2), (4, 3, 9, 8)),
    (nn.Conv2d(3, 5, (2, 3), padding="same", dilation=2), (4, 3, 9, 8)),
    (nn.Conv2d(3, 5, 3, padding=2, padding_mode="circular"), (4, 3, 9, 8)),
    (nn.Conv2d(3, 5, 1), (4, 3, 9, 8)),
    (nn.Conv1d(4, 6, 5, padding=1, stride=3), (5, 4, 17)),
    (nn.Conv3d(2, 3, 2, padding=1), (3, 2, 4, 5, 4)),
]


@pytest.mark.parametrize("number", range(len(CONVOLUTIONS)))
@pytest.mark.parametrize(
    ("dtype", "bytes_", "rel"),
    [(torch.float32, 2**25, 1e-5), (torch.float64, 1, 1e-10)],
)
def test_sums_are_those_of_the_patches(number, dtype, bytes_, rel, monkeypatch):
    monkeypatch.setattr(_solvers, "COPY_BYTES", bytes_)
    module, shape = CONVOLUTIONS[number]
    module = copy.deepcopy(module).to(dtype)
    with torch.no_grad():
        module.weight[0] = 0.001 * module.weight[1]
    (layer,) = find_layers(module).layers
    assert convolution_of(layer) is module
    maps = torch.randn(shape, dtype=dtype) + 0.5
    split = near_null_space(layer.weight(), 0.01)
    found, rows = patch_sums(module, maps, split), patches(module, maps)
    # the rows are what the weight acts on
    rows_out = rows @ layer.weight().T + module.bias
    assert torch.allclose(
        rows_out.sort(0)[0],
        module(maps).movedim(1, -1).flatten(0, -2).sort(0)[0],
        atol=1e-5,
    )
    expected = sample_sums(rows, split)
    assert found.count == expected.count == len(rows)
    for name in ("total", "squares", "total_null", "squares_null"):
        pair = getattr(found, name), getattr(expected, name)
        scale = float(expected.squares if "squares" in name else pair[1].abs().max())
        torch.testing.assert_close(*pair, rtol=rel, atol=rel * scale)
    share = expected.null_share
    assert found.null_share == pytest.approx(share, abs=rel)
    assert 0 <= share < 1


def test_one_map_without_a_batch():
    module = nn.Conv2d(3, 5, 3)
    split = near_null_space(module.weight.detach().flatten(1), 0.01)
    maps = torch.randn(3, 6, 6)
    assert patch_sums(module, maps, split).count == 16
    assert patch_sums(module, maps[None][:0], split).count == 0


def test_others_are_none():
    model = nn.ModuleList([
        nn.Conv2d(4, 4, 3, groups=2),
        nn.ConvTranspose2d(4, 4, 3),
        nn.Linear(4, 4),
    ])
    assert [convolution_of(x) for x in find_layers(model).layers] == [None] * 3
