"""The weights of one record, shared out: who measures which, and how it gets to see it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from svdhooks.conductor.bases import KeepsBases
from svdhooks.distributed.shards import (
    ShardError,
    gathered,
    gram_is_smaller,
    is_sharded,
    summed_gram,
)
from svdhooks.distributed.shares import balanced
from svdhooks.distributed.team import Team
from svdhooks.layers import Layer
from svdhooks.quantities import EdgeQuantity, WeightQuantity
from svdhooks.quantities.weight_spectrum import WeightSpectrum
from svdhooks.record import Record

Subject = Any
"""A layer, or an edge between layers."""

Piece = tuple["WeightQuantity | EdgeQuantity", Subject]
Measure = Callable[["WeightQuantity | EdgeQuantity", Subject], list[Record]]
Failed = Callable[["WeightQuantity | EdgeQuantity", Subject, Exception], list[Record]]


@dataclass
class _Item:
    """What is measured of weights that are gathered together.

    Attributes:
        layers: Whose weights.
        sources: Identities of what is gathered for them.
        pieces: What is measured, and by which rank.
    """

    layers: list[Layer]
    sources: frozenset[int]
    pieces: list[tuple[int, Piece]] = field(default_factory=list)

    @property
    def owner(self) -> int:
        return self.pieces[0][0]


class WeightShare:
    """Who measures which weight of one model.

    The same process measures a layer in every record, because a quantity may remember
    what it was. Quantities whose memory is stored with the run are measured by the one
    which writes.

    Args:
        team: The processes.
        layers: All layers of the model, in its order.
    """

    def __init__(self, team: Team, layers: Sequence[Layer]) -> None:
        self._team = team
        costs = [_cost(layer) for layer in layers]
        owners = balanced(costs, team.size)
        self._owners = {
            layer.name: owner for layer, owner in zip(layers, owners, strict=True)
        }

    def owner(self, quantity: WeightQuantity | EdgeQuantity, subject: Subject) -> int:
        """Who measures something.

        Args:
            quantity: What is measured.
            subject: Of what.

        Returns:
            The rank.
        """
        if isinstance(quantity, KeepsBases):
            return 0
        concerned = layers_of(subject)
        return self._owners.get(concerned[0].name, 0) if concerned else 0

    def measure(
        self, pieces: Sequence[Piece], measure: Measure, failed: Failed
    ) -> list[Record]:
        """Measure what is this process's share; collective where weights are sharded.

        Args:
            pieces: All that is to be measured, the same on all processes.
            measure: Measures one of them; raises nothing.
            failed: Gives the records of one that could not be gathered.

        Returns:
            The records of this process.
        """
        plain: list[Piece] = []
        sharded: list[Piece] = []
        for piece in pieces:
            (sharded if _needs_others(piece[1]) else plain).append(piece)
        records = self._gathered(sharded, measure, failed)
        for quantity, subject in plain:
            if self.owner(quantity, subject) == self._team.rank:
                records += measure(quantity, subject)
        return records

    def _gathered(
        self, pieces: Sequence[Piece], measure: Measure, failed: Failed
    ) -> list[Record]:
        records: list[Record] = []
        for group in self._rounds(pieces):
            with ExitStack() as stack:
                errors = [self._enter(stack, item) for item in group]
                for item, error in zip(group, errors, strict=True):
                    for quantity, subject in self._mine(item):
                        records += (
                            measure(quantity, subject)
                            if error is None
                            else failed(quantity, subject, error)
                        )
        return records

    def _mine(self, item: _Item) -> list[Piece]:
        return [piece for owner, piece in item.pieces if owner == self._team.rank]

    def _enter(self, stack: ExitStack, item: _Item) -> Exception | None:
        """Make the weights of an item readable, for who measures them."""
        keep, agree = bool(self._mine(item)), self._team.agree
        try:
            if _by_gram(item):
                gram = summed_gram(item.layers[0], keep, agree)
                if gram is not None:
                    item.pieces = [
                        (owner, (quantity, replace(layer, gram=gram)))
                        for owner, (quantity, layer) in item.pieces
                    ]
            else:
                whole = gathered(item.layers, keep, agree, _reads_biases(item))
                stack.enter_context(whole)
        except ShardError as error:
            return error
        return None

    def _rounds(self, pieces: Sequence[Piece]) -> Iterator[list[_Item]]:
        """So many at once that each process has one to solve.

        None of a round shares a tensor with another: what one process has put in its
        place there, the others would wait for in vain.
        """
        items: dict[frozenset[int], _Item] = {}
        held: list[Any] = []  # else an identity could be given away again
        for quantity, subject in pieces:
            layers = layers_of(subject)
            sources = [x for layer in layers for x in _gathered_by(layer)]
            held.append(sources)
            key = frozenset(map(id, sources))
            item = items.setdefault(key, _Item(layers, key))
            item.layers += [x for x in layers if x not in item.layers]
            item.pieces.append((self.owner(quantity, subject), (quantity, subject)))
        queues: list[list[_Item]] = [[] for _ in range(self._team.size)]
        for item in items.values():
            queues[item.owner].append(item)
        for queue in queues:  # the largest first: those of one round are of a size
            queue.sort(key=lambda item: -sum(map(_cost, item.layers)))
        while any(queues):
            group: list[_Item] = []
            for queue in queues:
                taken = {x for item in group for x in item.sources}
                if queue and not queue[0].sources & taken:
                    group.append(queue.pop(0))
            yield group


def _gathered_by(layer: Layer) -> Sequence[Any]:
    """What is gathered as a whole: its tensors, or all that FSDP1 keeps together."""
    if layer.flat:
        return [place.unit.module for place in layer.flat]
    bias = () if layer.bias_source is None else layer.bias_source.tensors()
    return (*layer.sources(), *bias)


def layers_of(subject: Subject) -> list[Layer]:
    """The layers whose weights something is measured from.

    Args:
        subject: A layer, or an edge that holds layers as attributes.

    Returns:
        The layers; none if it holds none.
    """
    if isinstance(subject, Layer):
        return [subject]
    held = vars(subject).values() if hasattr(subject, "__dict__") else ()
    return [value for value in held if isinstance(value, Layer)]


def _needs_others(subject: Subject) -> bool:
    return any(is_sharded(layer) for layer in layers_of(subject))


def _reads_biases(item: _Item) -> bool:
    return any(getattr(q, "reads_bias", False) for _, (q, _) in item.pieces)


def _by_gram(item: _Item) -> bool:
    """Whether the Gram is all that is needed, and cheaper to have than the weight."""
    plain = all(
        type(quantity) is WeightSpectrum and not quantity.heads
        for _, (quantity, _) in item.pieces
    )
    return plain and len(item.layers) == 1 and gram_is_smaller(item.layers[0])


def _cost(layer: Layer) -> float:
    """Operations of a Gram matrix and its eigenvalues, roughly."""
    many = layer.experts or layer.groups
    small, large = sorted(layer.shape)
    return float(many * (small**2 * large + 4 * small**3))
