"""Where the reference batch comes from, and how it is kept with a run."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from svdhooks.capture import Capture
from svdhooks.probe import ProbeOptions, ReferenceBatch
from svdhooks.reference import FILE, HASH_FILE, ReferenceKeeper
from svdhooks.reports import RecordingError, RecordingWarning, Reporter
from tests.models import Reused, mlp

X, OTHER = torch.randn(5, 4), torch.randn(5, 4)


def _keeper(
    directory: Path | None = None,
    probe: Any = None,
    *,
    model: nn.Module | None = None,
    resumed: bool = False,
    forward: Any = None,
    on_error: Any = "warn",
    **options: Any,
) -> ReferenceKeeper:
    return ReferenceKeeper(
        model or mlp(4, 6, 3),
        probe,
        ProbeOptions(**options),
        forward,
        directory,
        resumed,
        Reporter(on_error),
    )


def _same(keeper: ReferenceKeeper, x: Tensor) -> bool:
    return keeper.batch is not None and torch.equal(keeper.batch.args[0], x)


# --- given, offered, captured ---------------------------------------------------------


def test_a_given_probe_is_known_at_once_and_nothing_replaces_it():
    model = mlp(4, 6, 3)
    keeper = _keeper(probe=X, model=model)
    keeper.listen()
    assert model._compiled_call_impl is None
    keeper.offer(OTHER)
    assert _same(keeper, X)
    assert keeper.given


def test_the_first_offer_stays():
    keeper = _keeper()
    assert keeper.batch is None
    keeper.offer((X, torch.zeros(5)))
    keeper.offer(OTHER)
    assert _same(keeper, X)
    assert not keeper.given


def test_listening_twice_listens_once_and_stopping_twice_is_harmless():
    model = mlp(4, 6, 3)
    keeper = _keeper(model=model)
    keeper.listen()
    first = model._compiled_call_impl
    assert isinstance(first, Capture)
    keeper.listen()
    assert model._compiled_call_impl is first
    keeper.stop_listening()
    keeper.stop_listening()
    assert model._compiled_call_impl is None
    assert keeper.batch is None


def test_what_is_captured_is_the_reference():
    model = mlp(4, 6, 3)
    keeper = _keeper(model=model)
    keeper.listen()
    model(X)
    assert _same(keeper, X)
    model(OTHER)
    assert _same(keeper, X)


def test_a_model_called_by_forward_is_not_listened_to():
    model = mlp(4, 6, 3)
    _keeper(model=model, forward=lambda m, b: m(b[0])).listen()
    assert model._compiled_call_impl is None


def test_a_model_compiled_in_place_meanwhile_is_listened_to_again():
    model = Reused()
    keeper = _keeper(model=model)
    keeper.listen()
    model.compile(backend="eager")
    x = torch.randn(3, 5)
    model(x)
    assert keeper.batch is None  # compiling replaced what listened
    keeper.step_made()
    model(x)
    assert _same(keeper, x)


def test_a_step_without_a_call_ends_the_listening():
    model = mlp(4, 6, 3)
    keeper = _keeper(model=model)
    keeper.listen()
    keeper.step_made()
    model(X)
    assert keeper.batch is None


class _Uncopyable:
    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("cannot be copied")


def test_a_call_that_cannot_be_copied_disturbs_no_training():
    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor, extra: Any = None) -> Tensor:
            return self.linear(x)

    model = Takes()
    keeper = _keeper(model=model)
    keeper.listen()
    with pytest.warns(RecordingWarning, match="reference: cannot be copied"):
        model(X, _Uncopyable())
    assert keeper.batch is None
    strict = _keeper(model=model, on_error="raise")
    strict.listen()
    with pytest.raises(RecordingError, match="cannot be copied"):
        model(X, _Uncopyable())


@pytest.mark.parametrize("batch", [3, [], ("a", 1.0)])
def test_what_holds_no_data_is_not_kept(batch):
    keeper = _keeper()
    with pytest.warns(RecordingWarning, match="holds no data"):
        keeper.offer(batch)
    assert keeper.batch is None
    keeper.offer(X)
    assert _same(keeper, X)


# --- with the run -------------------------------------------------------------------------


def test_what_is_stored_is_found_by_a_resumed_run_only(tmp_path):
    _keeper(tmp_path, X).store()
    assert _same(_keeper(tmp_path, resumed=True), X)
    assert _keeper(tmp_path).batch is None


def test_without_a_directory_nothing_is_stored():
    _keeper(None, X).store()
    _keeper(None, X, resumed=True).store()


def test_nothing_known_is_nothing_stored(tmp_path):
    _keeper(tmp_path).store()
    assert list(tmp_path.iterdir()) == []


def test_the_hash_is_that_of_the_content(tmp_path):
    _keeper(tmp_path, X).store()
    stored = (tmp_path / HASH_FILE).read_text().strip()
    assert stored == ReferenceBatch.given(X.clone()).digest()
    assert len(stored) == len(hashlib.sha256().hexdigest())


def test_a_probe_in_use_is_not_written_again(tmp_path):
    _keeper(tmp_path, X).store()
    before = (tmp_path / FILE).stat().st_mtime_ns
    for keeper in (_keeper(tmp_path, resumed=True), _keeper(tmp_path, X, resumed=True)):
        keeper.store()
    assert (tmp_path / FILE).stat().st_mtime_ns == before


def test_a_stored_probe_gives_way_to_the_one_in_use(tmp_path):
    _keeper(tmp_path, X).store()
    with pytest.warns(RecordingWarning, match="differs"):
        _keeper(tmp_path, OTHER, resumed=True).store()
    assert _same(_keeper(tmp_path, resumed=True), OTHER)


@pytest.mark.parametrize("options", [{"keep": "hash"}, {"max_bytes": 79}])
def test_a_hash_alone_leaves_no_batch_of_before(tmp_path, options):
    _keeper(tmp_path, X).store()
    _keeper(tmp_path, OTHER, **options).store()
    assert not (tmp_path / FILE).exists()
    assert _keeper(tmp_path, resumed=True).batch is None
    _keeper(tmp_path, OTHER, resumed=True)  # and says nothing: it is the same


def test_the_largest_batch_that_is_stored_is_exactly_the_limit(tmp_path):
    _keeper(tmp_path, X, max_bytes=80).store()  # 5 · 4 numbers of 4 bytes
    assert (tmp_path / FILE).exists()


class _Named(NamedTuple):
    x: Tensor
    y: Tensor


def test_what_could_not_be_read_again_is_told_when_it_is_stored(tmp_path):
    keeper = _keeper(tmp_path, _Named(X, X), forward=lambda m, b: m(b.x))
    with pytest.warns(RecordingWarning, match="have to be given the same probe="):
        keeper.store()
    assert not (tmp_path / FILE).exists()
    assert list(tmp_path.glob("*.part")) == []
    with pytest.warns(RecordingWarning, match="differs"):  # by its hash
        _keeper(tmp_path, _Named(X, OTHER), resumed=True)


def test_a_directory_that_cannot_be_written_is_told_once(tmp_path):
    keeper = _keeper(tmp_path / "missing", X)
    with pytest.warns(RecordingWarning, match="could not store") as caught:
        keeper.store()
    assert len(caught) == 1
    keeper.store()


def test_a_given_probe_does_not_look_at_a_damaged_file(tmp_path):
    _keeper(tmp_path, X).store()
    (tmp_path / FILE).write_bytes(b"damaged")
    assert _same(_keeper(tmp_path, X, resumed=True), X)
    with pytest.warns(RecordingWarning, match="could not read"):
        assert _keeper(tmp_path, resumed=True).batch is None
