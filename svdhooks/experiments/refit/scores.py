"""How close refitted networks are to the original: the scores of the refit experiment.

Hidden units may be renumbered, so only the first layer's right vectors, the last
layer's left vectors and the adjacency between layers are compared as they are. All other
vectors are compared after units have been matched. The principal components of what a layer
puts out, as functions of the sample, need no match and no order of singular values.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from svdhooks.experiments.refit.layers import Factors
from svdhooks.experiments.refit.networks import decompose, linear_layers
from svdhooks.experiments.refit.training import Data, losses
from svdhooks.linalg import similarity
from svdhooks.linalg.spectral_graph import vector_adjacency

FUNCTION = "function"
AGREEMENT = "prediction agreement"
CKA = "logit CKA"
GAP = "loss gap"
ACCURACY = "test accuracy"
LOSS = "training loss"
_KS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 512)


@dataclass(frozen=True)
class Score:
    """One number that says how close a refitted network is to the original.

    Attributes:
        layer: Its name; of an adjacency ``earlier->later``; of the function what is
            compared.
        side: ``left`` or ``right`` singular vectors as leading spans, ``left cosine`` or
            ``right cosine`` vector by vector, ``signal`` (leading principal components of
            what the layer puts out, as functions of the sample), ``units`` (weights of
            matched units), ``adjacency`` or ``function``.
        k: How many leading vectors; None where there is no such number.
        score: 1 if equal, but for the losses and the accuracy.
        chance: What random directions give on average where theory knows it, else None.
    """

    layer: str
    side: str
    k: int | None
    score: float
    chance: float | None


@dataclass(frozen=True)
class Seen:
    """What is compared of one network.

    Attributes:
        names: Of its linear layers.
        factors: Of their weights.
        hidden: What enters each linear layer but the first, on the test samples.
        signals: Principal components of each layer's outputs on the test samples, one
            value per sample, orthonormal.
        logits: Outputs on the test samples.
        loss: On the training samples.
        accuracy: On the test samples; None without classes.
    """

    names: tuple[str, ...]
    factors: list[Factors]
    hidden: list[Float[Tensor, "t _"]]
    signals: list[Float[Tensor, "t _"]]
    logits: Float[Tensor, "t d"]
    loss: float
    accuracy: float | None


@torch.no_grad()
def see(network: nn.Sequential, data: Data) -> list[Seen]:
    """Take from a network what is compared.

    Args:
        network: One network, or several along a leading dimension of their weights.
        data: Where they are compared.

    Returns:
        One for each network.
    """
    names = tuple(linear_layers(network))
    entering, leaving, logits = _points(network, data.test_x)
    loss = losses(network(data.train_x), data.train_y)
    factors = decompose(network)
    signals = [_principal(values) for values in leaving]
    if logits.ndim == 2:
        factors = [Factors(f.U[None], f.sigma[None], f.V[None]) for f in factors]
        entering, signals = ([v[None] for v in part] for part in (entering, signals))
        logits, loss = logits[None], loss[None]
    return [
        Seen(
            names,
            [f.of_restart(r) for f in factors],
            [values[r] for values in entering[1:]],
            [values[r] for values in signals],
            logits[r],
            float(loss[r]),
            _accuracy(logits[r], data.test_y) if data.classes else None,
        )
        for r in range(len(logits))
    ]


def _points(
    network: nn.Sequential, x: Tensor
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """What enters and leaves each linear layer, and the output of the network."""
    linear, entering, leaving = set(linear_layers(network)), [], []
    for name, module in network.named_children():
        before, x = x, module(x)
        if name in linear:
            entering.append(before)
            leaving.append(x)
    return entering, leaving, x


def _principal(values: Float[Tensor, "*r t d"]) -> Float[Tensor, "*r t _"]:
    centred = values.double() - values.double().mean(-2, keepdim=True)
    principal: Tensor = torch.linalg.svd(centred, full_matrices=False)[0]
    return principal


def _accuracy(logits: Tensor, classes: Tensor) -> float:
    return float((logits.argmax(-1) == classes).double().mean())


def compare(
    original: Seen, other: Seen, ks: Sequence[int] = _KS, gap: float = similarity.GAP
) -> list[Score]:
    """Score how close one network is to the original.

    Args:
        original: The trained network.
        other: One of the arms.
        ks: Numbers of leading vectors; those above a layer's rank are left out.
        gap: Singular values closer than this (relative) do not tell vectors apart.

    Returns:
        The scores.
    """
    matches = [
        similarity.match_units(a, b)
        for a, b in zip(original.hidden, other.hidden, strict=True)
    ]
    groups = [
        [similarity.spans(f.sigma, gap) for f in seen.factors]
        for seen in (original, other)
    ]
    scores = []
    for layer, name in enumerate(original.names):
        U, V = _matched(other.factors[layer], layer, matches)
        own = original.factors[layer]
        between = (groups[0][layer], groups[1][layer])
        for side, A, B in (("right", own.V, V), ("left", own.U, U)):
            # chance is known where no units were matched to look alike
            known = layer == 0 if side == "right" else layer == len(matches)
            scores += _of_vectors(name, side, A, B, between, ks, known)
        scores += _of_signals(name, original.signals[layer], other.signals[layer], ks)
        scores.append(
            Score(name, "units", None, _units(own, U, V, other.factors[layer]), None)
        )
    scores += _of_adjacencies(original, other, groups, ks)
    return [*scores, *_of_function(original, other)]


def _matched(
    factors: Factors, layer: int, matches: Sequence[Int64[Tensor, " _"]]
) -> tuple[Tensor, Tensor]:
    """U and V in the original's numbering of units."""
    U = factors.U[matches[layer]] if layer < len(matches) else factors.U
    V = factors.V[matches[layer - 1]] if layer else factors.V
    return U, V


def _of_vectors(
    name: str,
    side: str,
    A: Tensor,
    B: Tensor,
    groups: tuple[similarity.Spans, similarity.Spans],
    ks: Sequence[int],
    known: bool,
) -> list[Score]:
    """Overlaps of leading spans, and mean cosines of leading vectors."""
    out = []
    cosines = similarity.vector_cosines(A, B, similarity.joined(*groups))
    for k in (k for k in ks if k <= A.shape[1]):
        found = similarity.leading_overlap(A, B, k, *groups)
        chance = found.chance if known else None
        out.append(Score(name, side, k, found.score, chance))
        mean = float(cosines[:k].mean())
        out.append(Score(name, f"{side} cosine", k, mean, None))
    return out


def _of_signals(name: str, A: Tensor, B: Tensor, ks: Sequence[int]) -> list[Score]:
    """Leading principal components: defined whatever the spectrum and the numbering."""
    overlap = similarity.orthonormal_overlap
    return [
        Score(name, "signal", k, overlap(A[:, :k], B[:, :k]), None)
        for k in ks
        if k <= A.shape[1]
    ]


def _units(own: Factors, U: Tensor, V: Tensor, other: Factors) -> float:
    """Mean cosine between the incoming weights of matched units."""
    mine, theirs = own.weight(), Factors(U, other.sigma, V).weight()
    return float(torch.cosine_similarity(mine, theirs, dim=1).mean())


def _of_adjacencies(
    original: Seen,
    other: Seen,
    groups: Sequence[Sequence[similarity.Spans]],
    ks: Sequence[int],
) -> list[Score]:
    """Correlations of the adjacencies between layers, over their leading k by k parts."""
    out = []
    for i in range(len(original.names) - 1):
        A, B = (
            vector_adjacency(seen.factors[i].U, seen.factors[i + 1].V.mT)
            for seen in (original, other)
        )
        columns = similarity.joined(groups[0][i], groups[1][i])
        rows = similarity.joined(groups[0][i + 1], groups[1][i + 1])
        name = f"{original.names[i]}->{original.names[i + 1]}"
        for k in (k for k in ks if 3 <= k <= min(A.shape)):
            inner = [[s for s in part if s[1] <= k] for part in (rows, columns)]
            value = math.nan
            if all(inner):
                value = similarity.block_correlation(A, B, inner[0], inner[1])
            out.append(Score(name, "adjacency", k, value, 0.0))
    return out


def _of_function(original: Seen, other: Seen) -> list[Score]:
    cka = similarity.linear_cka(original.logits, other.logits)
    values = {CKA: cka, LOSS: other.loss, GAP: other.loss - original.loss}
    if original.accuracy is not None and other.accuracy is not None:
        same = original.logits.argmax(-1) == other.logits.argmax(-1)
        agreement = float(same.double().mean())
        values = {AGREEMENT: agreement, ACCURACY: other.accuracy, **values}
    return [Score(name, FUNCTION, None, value, None) for name, value in values.items()]
