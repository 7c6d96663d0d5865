"""Residual streams that are joined by what cannot be seen."""

import torch
from torch import nn

from tests.unit.test_flow_pairs import Net, found_in, reasons, streams


def _hidden(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a layer of another process, or a kernel of its own, adds."""
    with torch.no_grad():
        return module(torch.from_numpy(x.detach().numpy().copy()))


def _net() -> Net:
    return Net(
        _forward,
        embed=nn.Linear(5, 8),
        unseen=nn.Identity(),
        head=nn.Linear(8, 3),
        late=nn.Linear(8, 8),
        last=nn.Linear(8, 2),
    )


def _forward(net, x):
    stream = net.embed(x)
    for _ in range(2):  # blocks whose layers are not seen to read or to write
        stream = stream + _hidden(net.unseen, stream)
    read = net.head(stream)
    return read, net.last(stream + net.late(stream))


def test_who_joined_last_is_not_guessed_where_something_unseen_joined():
    found = found_in(_net(), torch.randn(2, 5))
    assert "where it cannot be seen" in reasons(found)["embed->head"]
    # from a layer that was seen to read it on, the stream is in sight again
    assert streams(found) == {"late->last"}


def test_all_that_joined_are_taken_on_request():
    found = found_in(_net(), torch.randn(2, 5), streams="all")
    expected = {"embed->head", "embed->late", "embed->last", "late->last"}
    assert streams(found) == expected
