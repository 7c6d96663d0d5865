"""What is seen at a layer's points, as samples × features."""

import pytest
import torch
from torch import nn

from svdhooks.hooks import observed
from svdhooks.layers import PointValue, find_layers, samples_of


def _points(model: nn.Module, *args: torch.Tensor, **kwargs: torch.Tensor):
    seen: dict[tuple[str, str], torch.Tensor] = {}

    def receive(layer, values):
        for point, value in values.items():
            seen[layer.name, point] = samples_of(value).clone()

    def fail(layer, error):
        raise error

    with observed(find_layers(model).layers, receive, fail):
        model(*args, **kwargs)
    return seen


def test_linear_flattens_everything_but_the_features():
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(2, 5, 4)
    seen = _points(model, x)
    torch.testing.assert_close(seen["0", "input"], x.reshape(10, 4))
    torch.testing.assert_close(seen["0", "output"], model(x).reshape(10, 3).detach())


def test_convolution_takes_channels_as_features_and_positions_as_samples():
    model, x = nn.Sequential(nn.Conv2d(3, 5, 3)), torch.randn(2, 3, 6, 7)
    seen = _points(model, x.to(memory_format=torch.channels_last))
    assert seen["0", "input"].shape == (2 * 6 * 7, 3)
    torch.testing.assert_close(
        seen["0", "output"], model(x).permute(0, 2, 3, 1).reshape(-1, 5).detach()
    )


def test_an_unbatched_convolution_is_read_too():
    seen = _points(nn.Sequential(nn.Conv1d(3, 5, 3)), torch.randn(3, 9))
    assert seen["0", "input"].shape == (9, 3)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("same_width", [True, False])
def test_attention_projections_are_those_of_the_module(batch_first, same_width):
    """Hazard 13: though out_proj is never called."""
    widths = {} if same_width else {"kdim": 6, "vdim": 10}
    attention = nn.MultiheadAttention(8, 1, batch_first=batch_first, **widths).eval()
    model = nn.ModuleDict({"a": attention})
    model.forward = lambda q, k, v: attention(q, k, value=v, need_weights=False)
    q = torch.randn(2, 3, 8)
    k = torch.randn(2, 3, widths.get("kdim", 8))
    v = torch.randn(2, 3, widths.get("vdim", 8))
    seen = _points(model, q, k, v)
    assert len(seen) == 7  # three inputs, four outputs
    lead = (2, 3) if batch_first else (3, 2)
    heads = {
        letter: seen[f"a.{letter}_proj", "output"].reshape(2, 3, 8).double()
        for letter in "qkv"
    }
    if not batch_first:  # samples come with the batch first
        heads = {p: h.reshape(3, 2, 8) for p, h in heads.items()}
    assert lead  # the layout only decides which axis is the sequence
    torch.testing.assert_close(seen["a.q_proj", "input"].sum(), q.sum())
    out = attention.out_proj
    assert seen["a.out_proj", "output"].shape == (6, out.out_features)


def test_attention_output_is_rebuilt_from_its_projections():
    """An independent road: softmax(q kᵀ) v through the seen q, k and v."""
    attention = nn.MultiheadAttention(8, 1, batch_first=True).eval()
    x = torch.randn(1, 5, 8)
    seen = _points(nn.Sequential(_SelfAttention(attention)), x)
    q, k, v = (seen[f"0.attention.{p}_proj", "output"] for p in "qkv")
    mixed = torch.softmax(q @ k.T / 8**0.5, -1) @ v
    torch.testing.assert_close(
        attention.out_proj(mixed), seen["0.attention.out_proj", "output"]
    )


class _SelfAttention(nn.Module):
    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x)[0]


def test_embedding_has_an_output_only():
    seen = _points(nn.Sequential(nn.Embedding(9, 4)), torch.tensor([[1, 2], [3, 4]]))
    assert {point for _, point in seen} == {"output"}
    assert seen["0", "output"].shape == (4, 4)


def test_padding_is_left_out_by_the_mask():
    x = torch.arange(24.0).reshape(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    kept = torch.cat([x[0, :2], x[1, :3]])
    torch.testing.assert_close(samples_of(PointValue(x), mask=mask), kept)
    # sequence first, and already flattened
    first = PointValue(x.transpose(0, 1), batch_first=False)
    torch.testing.assert_close(samples_of(first, mask=mask), kept)
    torch.testing.assert_close(
        samples_of(PointValue(x.transpose(0, 1)), mask=mask), kept
    )
    torch.testing.assert_close(samples_of(PointValue(x.reshape(8, 3)), mask=mask), kept)
    # channels first, as in a one-dimensional convolution
    channels = PointValue(x.transpose(1, 2), feature_axis=-2)
    torch.testing.assert_close(samples_of(channels, mask=mask), kept)


def test_a_pooled_tensor_is_not_masked():
    x, mask = torch.randn(2, 3), torch.tensor([[True, False], [True, True]])
    torch.testing.assert_close(samples_of(PointValue(x), mask=mask), x)


def test_last_and_mean_count_only_what_the_mask_keeps():
    x = torch.arange(24.0).reshape(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    last = samples_of(PointValue(x), "last", mask)
    torch.testing.assert_close(last, torch.stack([x[0, 1], x[1, 2]]))
    mean = samples_of(PointValue(x), "mean", mask)
    torch.testing.assert_close(mean, torch.stack([x[0, :2].mean(0), x[1, :3].mean(0)]))


def test_a_sequence_without_any_counting_token_gives_no_sample():
    x, mask = torch.randn(2, 3, 4), torch.tensor([[False] * 3, [True] * 3])
    for samples in ("tokens", "last", "mean"):
        found = samples_of(PointValue(x), samples, mask)
        assert found.isfinite().all()
        assert len(found) == (3 if samples == "tokens" else 1)


def test_without_a_mask_last_and_mean_take_the_whole_sequence():
    x = torch.randn(2, 4, 3)
    torch.testing.assert_close(samples_of(PointValue(x), "last"), x[:, -1])
    torch.testing.assert_close(samples_of(PointValue(x), "mean"), x.mean(1))


def test_a_single_vector_is_one_sample():
    assert samples_of(PointValue(torch.randn(5))).shape == (1, 5)
