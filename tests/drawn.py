"""Things to draw, and what can be found in a drawing."""

import io

import numpy as np
import torch

from svdhooks import linalg
from svdhooks.analysis.descrambling import DescrambledLayer
from svdhooks.analysis.graph import PairAdjacency


def layer(side="out", name="fc1", gap=0.01, operator="fourier2"):
    """A layer of 12 outputs and 16 inputs (24 the other way), descrambled."""
    weight = torch.randn(12, 16, dtype=torch.float64, generator=seeded())
    if side == "out":
        found = linalg.descramble(weight @ weight.T, "fourier2")
        turned = found.weight(weight)
    else:
        found = linalg.descramble(weight.T @ weight, "fourier2")
        turned = found.next_weight(weight)
    return DescrambledLayer(
        layer=name,
        step=1200,
        side=side,
        operator=operator,
        data="measured",
        centred=False,
        weight=weight.numpy(),
        descrambled=turned.numpy(),
        descrambling=found,
        angles={},
        spans=found.spans(gap),
        gap=gap,
    )


def seeded():
    return torch.Generator().manual_seed(3)


def pair(adjacency, source="fc1", target="fc2", threshold=0.5, **other):
    rows, columns = adjacency.shape
    fields = {
        "source": source,
        "target": target,
        "kind": "fc-fc",
        "stream": False,
        "adjacency": adjacency,
        "threshold": threshold,
        "p": 0.00135,
        "null": "beta",
        "expected_false": 0.00135 * adjacency.size,
        "significant": int((adjacency > threshold).sum()),
        "features": columns,
        "positions": 1,
        "internal_dimensions": (2, 3),
        "intensity": np.ones(columns),
        "source_sigma": np.linspace(2.0, 0.5, columns),
        "target_sigma": np.linspace(3.0, 0.1, rows),
    }
    return PairAdjacency(**(fields | other))


def random_pair(rows=9, columns=7, **other):
    values = np.random.default_rng(0).uniform(size=(rows, columns))
    return pair(values, **other)


def rows_of_refit(layers=("fc1",), arms=("fixed_s", "haar")):
    return [
        {
            "arm": arm,
            "layer": name,
            "side": "right",
            "k": k,
            "mean": 0.6 + 0.01 * k + 0.1 * place,
            "low": 0.5 + 0.01 * k,
            "high": 0.8 + 0.01 * k,
            "chance": k / 20,
            "seeds": 3,
        }
        for name in layers
        for place, arm in enumerate(arms)
        for k in (1, 2, 4)
    ]


def images(figure):
    return [image for axes in figure.axes for image in axes.get_images()]


def drawn(figure):
    """All text of a figure that has been drawn."""
    figure.savefig(io.BytesIO(), dpi=40)
    return "\n".join(text.get_text() for text in figure.findobj(match=_is_text))


def _is_text(artist):
    return hasattr(artist, "get_text")
