"""LSTM, GRU and RNN: one layer per weight, direction and gate.

The kernels are fused: no pre-activation passes a hook. What can be seen is the input
of the first layer and the hidden states of the last one.
"""

from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from svdhooks.layers.biases import bias_at
from svdhooks.layers.layer import Layer
from svdhooks.layers.parts import consecutive, split
from svdhooks.layers.points import Call, PointValue, Reader, no_points
from svdhooks.layers.site import Site

_GATES = {"LSTM": "ifgo", "GRU": "rzn", "RNN": ""}
"""In the order of the rows: torch's documentation of each module."""


def recurrent(site: Site) -> list[Layer]:
    """The weights of an LSTM, GRU or RNN.

    Args:
        site: The module.

    Returns:
        ``weight_ih_l0.i`` and so on, layer by layer and direction by direction.
    """
    module = site.module
    found = []
    for level in range(module.num_layers):
        last = level == module.num_layers - 1
        for direction in range(2 if module.bidirectional else 1):
            suffix = f"_l{level}" + ("_reverse" if direction else "")
            hidden = _hidden_points(direction) if last else no_points
            found += _gates(site, f"weight_ih{suffix}", no_points if level else _input)
            found += _gates(site, f"weight_hh{suffix}", hidden)
            if module.proj_size:
                found.append(_projection(site, f"weight_hr{suffix}", direction, last))
    return found


def recurrent_cell(site: Site) -> list[Layer]:
    """The two weights of an LSTMCell, GRUCell or RNNCell.

    Args:
        site: The module.

    Returns:
        ``weight_ih.i`` and so on.
    """
    of_input = _gates(site, "weight_ih", _input)
    return of_input + _gates(site, "weight_hh", _cell_hidden)


def _gates(site: Site, parameter: str, read: Reader) -> list[Layer]:
    module = site.module
    kind = next(
        kind
        for kind, types in {
            "LSTM": (nn.LSTM, nn.LSTMCell),
            "GRU": (nn.GRU, nn.GRUCell),
            "RNN": (nn.RNN, nn.RNNCell),
        }.items()
        if isinstance(module, types)
    )
    gates = _GATES[kind]
    rows = module.hidden_size * max(len(gates), 1)
    recurrent = parameter.startswith("weight_hh")
    in_ = _columns(module, parameter) if not recurrent else _state_size(module)
    whole = Layer(
        f"{site.name}.{parameter}",
        f"{kind.lower()} {'gate' if gates else 'weight'}",
        module,
        parameter,
        _same,
        (rows, in_),
        {} if read is no_points else {"input": in_},
        read,
        bias_source=bias_at(module, parameter.replace("weight", "bias")),
    )
    return split(whole, consecutive(gates, [module.hidden_size] * len(gates)))


def _columns(module: Any, parameter: str) -> int:
    """Inputs of a ``weight_ih``: the module's, or the states of the level below."""
    if "_l" not in parameter or parameter.split("_l")[1].split("_")[0] == "0":
        return int(module.input_size)
    return _state_size(module) * (2 if module.bidirectional else 1)


def _state_size(module: Any) -> int:
    return int(getattr(module, "proj_size", 0) or module.hidden_size)


def _projection(site: Site, parameter: str, direction: int, last: bool) -> Layer:
    """The map from the cell's output to the hidden state, if an LSTM has one."""
    module = site.module
    shape = (module.proj_size, module.hidden_size)

    def read(call: Call) -> dict[str, PointValue]:
        states, first = _states(call, direction)
        return {"output": PointValue(states, batch_first=first)}

    return Layer(
        f"{site.name}.{parameter}",
        "lstm projection",
        module,
        parameter,
        _same,
        shape,
        {"output": module.proj_size} if last else {},
        read if last else no_points,
    )


def _input(call: Call) -> dict[str, PointValue]:
    value = call.args[0] if call.args else call.kwargs["input"]
    first = bool(getattr(call.module, "batch_first", True))
    tensor = value.data if isinstance(value, PackedSequence) else value
    return {"input": PointValue(tensor, batch_first=first)}


def _hidden_points(direction: int) -> Reader:
    """Reader of the hidden states that enter the last level again.

    Args:
        direction: 0 forwards, 1 backwards in time.

    Returns:
        The reader.
    """

    def read(call: Call) -> dict[str, PointValue]:
        if isinstance(call.output[0], PackedSequence):
            return {}  # the state before the first step is nowhere among its data
        states, first = _states(call, direction)
        time = 1 if first and states.ndim == 3 else 0
        module, length = call.module, states.shape[time]
        level = (module.num_layers - 1) * (2 if module.bidirectional else 1) + direction
        initial = _initial(call, states.narrow(time, 0, 1).squeeze(time), level)
        start = 1 if direction else 0
        before = [initial.unsqueeze(time), states.narrow(time, start, length - 1)]
        entering = torch.cat(before[::-1] if direction else before, time)
        return {"input": PointValue(entering, batch_first=first)}

    return read


def _states(call: Call, direction: int) -> tuple[Tensor, bool]:
    """Hidden states of the last level in one direction; whether the batch is first."""
    states = call.output[0]
    tensor = states.data if isinstance(states, PackedSequence) else states
    size = _state_size(call.module)
    return (
        tensor[..., direction * size : (direction + 1) * size],
        bool(call.module.batch_first),
    )


def _initial(call: Call, like: Tensor, level: int) -> Tensor:
    """The hidden state before the first step: as given, or zero."""
    given = call.args[1] if len(call.args) > 1 else call.kwargs.get("hx")
    if given is None:
        return torch.zeros_like(like)
    hidden: Tensor = (given[0] if isinstance(given, tuple) else given)[level]
    return hidden


def _cell_hidden(call: Call) -> dict[str, PointValue]:
    given = call.args[1] if len(call.args) > 1 else call.kwargs.get("hx")
    if isinstance(given, (tuple, list)):
        given = given[0]
    return {
        "input": PointValue(torch.zeros_like(call.result) if given is None else given)
    }


def _same(weight: Shaped[Tensor, "out in"]) -> Shaped[Tensor, "out in"]:
    return weight
