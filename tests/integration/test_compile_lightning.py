"""torch.compile within Lightning: the records of the eager twin, and no graph more."""

from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from svdhooks.lightning import SpectrumMonitor
from svdhooks.sinks.memory import MemorySink
from tests import compiled
from tests.compiled import BATCHES, Counting, Net, Run, assert_same_records

# dynamo looks at the gradients of its inputs, and warnings are errors here
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*`isinstance.treespec, LeafSpec.`.*"),
]

X = BATCHES[:4].flatten(0, 1)


class Module(pl.LightningModule):
    """Compiles its network where it is told to."""

    def __init__(self, shape: str, backend: Counting) -> None:
        super().__init__()
        self.net: Any = Net()
        self._shape = shape
        self._backend = backend

    def configure_model(self) -> None:
        if self._shape == "configure_model":
            self.net = torch.compile(self.net, backend=self._backend)
        elif self._shape == "configure_model in place":
            self.net.compile(backend=self._backend)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return self(batch[0]).square().mean()

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class WithoutForward(Module):
    """Its steps call the network; ``forward=`` tells how."""

    forward = pl.LightningModule.forward  # type: ignore[assignment]

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        self.net(batch[0])


def _fit(shape: str, watched: bool = True, kind: Any = Module, **options: Any) -> Run:
    sink = MemorySink()
    loader = DataLoader(TensorDataset(X), batch_size=12)
    with compiled.fresh_dynamo() as counting, TemporaryDirectory() as root:
        given = {"every_n_steps": 1, "max_overhead": None, "on_error": "raise"}
        monitor = SpectrumMonitor(log_dir=root, sinks=[sink], **(given | options))
        torch.manual_seed(0)
        module = kind(shape, counting)
        called: Any = module
        if shape == "outer":
            called = torch.compile(module, backend=counting)
        elif shape == "in place":
            module.compile(backend=counting)
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            default_root_dir=root,
            callbacks=[monitor] if watched else [],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            logger=False,
        )
        trainer.fit(called, loader, loader)  # validates before it trains
        state = [value.clone() for value in module.state_dict().values()]
        records = compiled.as_records(sink)
        return Run(records, counting.graphs, compiled.attempts(), state)


SHAPES = ["outer", "in place", "configure_model", "configure_model in place"]
PROBES: dict[str, Any] = {"given": BATCHES[0][:5], "captured": None}


@cache
def _twin(probe: str) -> Run:
    return _fit("eager", probe=PROBES[probe])


@cache
def _unwatched(shape: str, kind: Any) -> Run:
    return _fit(shape, watched=False, kind=kind)


def _by_name_in_net(run: Run) -> Run:
    named = {
        (s, n.removeprefix("net."), *rest): r
        for (s, n, *rest), r in run.records.items()
    }
    return Run(named)


def _assert_as_eager_and_undisturbed(found: Run, twin: Run, unwatched: Run) -> None:
    assert {step for step, *_ in found.records} == set(range(len(X) // 12 + 1))
    assert_same_records(_by_name_in_net(found), _by_name_in_net(twin))
    assert unwatched.graphs > 0
    assert (found.graphs, found.attempts) == (unwatched.graphs, unwatched.attempts)
    assert all(map(torch.equal, found.state, unwatched.state))


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(
    "shape",
    [*SHAPES[:2], *(pytest.param(s, marks=pytest.mark.slow) for s in SHAPES[2:])],
)
def test_a_compiled_module_records_what_its_eager_twin_does(shape, probe):
    """Hazards 1, 2 and 39: after a compiled validation, under the same names."""
    found = _fit(shape, probe=PROBES[probe])
    unwatched = _unwatched(shape, Module)
    _assert_as_eager_and_undisturbed(found, _twin(probe), unwatched)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s != "in place"])
def test_a_compiled_module_whose_steps_call_the_network(shape):
    def forward(module: Any, batch: Any) -> Tensor:
        return module.net(batch[0])

    found = _fit(shape, kind=WithoutForward, forward=forward)
    unwatched = _unwatched(shape, WithoutForward)
    _assert_as_eager_and_undisturbed(found, _twin("captured"), unwatched)


@pytest.mark.parametrize("shape", SHAPES)
def test_observing_the_training_of_a_compiled_module_is_refused(shape):
    with pytest.raises(ValueError, match="needs an eager forward; found"):
        _fit(shape, observe="training")
