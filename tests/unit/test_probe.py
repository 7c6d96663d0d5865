"""The reference batch: every way to give one, and the call it leads to."""

from collections import UserDict, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from svdhooks.probe import ProbeOptions, ReferenceBatch
from tests.models import TwoInputs, mlp


class _Spy(nn.Module):
    """Remembers what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def forward(self, x: Tensor, t: Tensor, *, flag: Tensor | None = None) -> Tensor:
        self.calls.append(((x, t), {"flag": flag}))
        return self.linear(x)


X, T = torch.randn(3, 2), torch.arange(3)


def test_a_tensor_is_the_first_argument():
    batch = ReferenceBatch.given(X)
    torch.testing.assert_close(batch.args[0], X)
    assert batch.kwargs == {}


def test_a_tuple_gives_positional_and_a_mapping_keyword_arguments():
    spy = _Spy()
    ReferenceBatch.given((X, T)).run(spy)
    ReferenceBatch.given({"x": X, "t": T, "flag": T}).run(spy)
    ReferenceBatch.given(UserDict(x=X, t=T)).run(spy)
    for args, _ in spy.calls:
        torch.testing.assert_close(args[0], X)
        torch.testing.assert_close(args[1], T)
    torch.testing.assert_close(spy.calls[1][1]["flag"], T)


def test_a_named_tuple_keeps_its_type_for_forward():
    Batch = namedtuple("Batch", "x y")
    seen = []
    batch = ReferenceBatch.given(Batch(X, T))
    batch.run(mlp(2, 2), forward=lambda model, b: seen.append(b.y))
    torch.testing.assert_close(seen[0], T)


def test_a_training_batch_gives_as_many_entries_as_forward_requires():
    labels = torch.zeros(3)
    assert len(ReferenceBatch.from_training([X, T], mlp(2, 2)).args) == 1
    assert len(ReferenceBatch.from_training((X, T, labels), _Spy()).args) == 2
    assert len(ReferenceBatch.from_training([X, X], TwoInputs()).args) == 2
    assert len(ReferenceBatch.from_training(X, mlp(2, 2)).args) == 1


def test_a_training_mapping_gives_the_keys_that_forward_names():
    batch = ReferenceBatch.from_training({"x": X, "t": T, "labels": T}, _Spy())
    assert set(batch.kwargs) == {"x", "t"}

    class Open(nn.Module):
        def forward(self, **kwargs: Tensor) -> Tensor:
            return kwargs["x"]

    assert set(ReferenceBatch.from_training({"x": X, "y": T}, Open()).kwargs) == {
        "x",
        "y",
    }


def test_the_batch_is_a_copy_that_neither_side_can_change():
    x = X.clone()
    batch = ReferenceBatch.given(x)
    x.zero_()

    class Overwrites(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.zero_()

    digest = batch.digest()
    batch.run(Overwrites())
    assert batch.digest() == digest
    torch.testing.assert_close(batch.args[0], X)


def test_floats_are_cast_to_the_one_dtype_of_the_parameters():
    spy = _Spy().to(torch.bfloat16)
    ReferenceBatch.given((X, T)).run(spy)
    args, _ = spy.calls[0]
    assert args[0].dtype == torch.bfloat16
    assert args[1].dtype == torch.int64
    mixed = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2).double()])
    mixed.forward = lambda x: seen.append(x.dtype)
    seen: list[torch.dtype] = []
    ReferenceBatch.given(X).run(mixed)
    assert seen == [torch.float32]


def test_an_inference_tensor_is_copied_into_a_normal_one():
    """Hazard 7: batches of a validation."""
    with torch.inference_mode():
        batch = ReferenceBatch.given(torch.ones(2, 2))
    assert not batch.args[0].is_inference()


def test_the_batch_survives_the_file(tmp_path):
    batch = ReferenceBatch.given({"x": X, "t": T})
    batch.save(tmp_path / "probe.pt")
    again = ReferenceBatch.load(tmp_path / "probe.pt")
    assert again.digest() == batch.digest()
    spy = _Spy()
    again.run(spy)
    torch.testing.assert_close(spy.calls[0][0][0], X)


def test_the_digest_sees_values_shapes_and_dtypes():
    base = ReferenceBatch.given(X).digest()
    changed = X.clone()
    changed[0, 0] += 1e-3
    for other in (changed, X.reshape(2, 3), X.double()):
        assert ReferenceBatch.given(other).digest() != base
    assert ReferenceBatch.given(X.to(torch.bfloat16)).digest()  # has no numpy dtype


def test_the_mask_is_a_key_or_a_callable():
    batch = ReferenceBatch.given({"x": X, "attention_mask": torch.tensor([[1, 0]])})
    model = mlp(2, 2)
    for option in ("attention_mask", lambda b: b["attention_mask"]):
        assert batch.mask(option, model).tolist() == [[True, False]]
    assert batch.mask(None, model) is None
    with pytest.raises(ValueError, match="no such key; found"):
        batch.mask("mask", model)
    with pytest.raises(ValueError, match=r"\(batch, length\)"):
        batch.mask(lambda b: torch.ones(3), model)


def test_a_probe_without_tensors_is_refused():
    for wrong in ([], {"x": 3}, "batch", iter([X])):
        with pytest.raises(TypeError, match="without any tensor"):
            ReferenceBatch.given(wrong)


@pytest.mark.usefixtures("as_a_user_calls")
def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="'tokens', 'last' or 'mean'"):
        ProbeOptions(samples="all")
    with pytest.raises(ValueError, match="'batch' or 'hash'"):
        ProbeOptions(keep="nothing")
    with pytest.raises(TypeError, match="attention_mask"):
        ProbeOptions(mask=3)


def test_a_forward_that_takes_the_batch_apart_gets_all_of_it():
    class Unpacks(nn.Module):
        def forward(self, batch: list[Tensor]) -> Tensor:
            x, y = batch
            return x.sum() + y.sum()

    batch = ReferenceBatch.from_training([X, T], Unpacks())
    assert len(batch.args) == 1
    batch.run(Unpacks())
