"""Local rank on a GPU: the numbers of the CPU, also where kernels lack derivatives."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

import svdhooks
from svdhooks.quantities import JacobianSpectrum

pytestmark = pytest.mark.gpu


class Attention(nn.Module):
    """Its attention kernel has no forward-mode derivative on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1)
        )
        mixed = scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Recurrent(nn.Module):
    """cuDNN's kernel has no double backward, and no backward in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, 12, batch_first=True), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


@pytest.mark.parametrize("kind", [Attention, Recurrent])
@pytest.mark.parametrize("directions", [200, 8], ids=["complete", "sketch"])
def test_local_rank_equals_that_of_the_cpu(
    kind: type[nn.Module], directions: int
) -> None:
    torch.manual_seed(0)
    model, x = kind().double(), torch.randn(3, 7, 16, dtype=torch.float64)
    options = {"directions": 8, "max_directions": directions}
    on_cpu = svdhooks.local_rank(model, x, **options)
    on_gpu = svdhooks.local_rank(model.cuda(), x, **options)
    assert on_cpu.keys() == on_gpu.keys()
    for name, expected in on_cpu.items():
        assert on_gpu[name].status == expected.status
        torch.testing.assert_close(on_gpu[name].spectra, expected.spectra)


def test_live_records_are_those_of_the_front_door() -> None:
    torch.manual_seed(0)
    model, x = Attention().cuda(), torch.randn(4, 7, 16, device="cuda")
    sink = svdhooks.MemorySink()
    with svdhooks.watch(
        model, None, probe=x, sinks=[sink], quantities=JacobianSpectrum()
    ):
        pass
    found = svdhooks.local_rank(model, x)
    for record in sink.of("local_rank"):
        assert record.ok
        assert np.isclose(record.measures["local_rank"], found[record.layer].mean)
