"""The rule about tokens of a sequence that became the same."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from svdhooks.alarms.checks import check_number, check_rule
from svdhooks.alarms.event import AlarmEvent, Severity, named
from svdhooks.alarms.grouping import Reporting, Sign, number
from svdhooks.alarms.loss import LossLevel
from svdhooks.alarms.reading import Reading
from svdhooks.alarms.signals import Patience

RANK, RESIDUAL, LENGTH = "tokens_effective_rank", "tokens_residual", "tokens_length"


@dataclass(frozen=True)
class TokenCollapse:
    """The tokens of each sequence are the same, from some layer to the end.

    Attention takes averages, and without skip connections tokens become equal with depth
    (Dong et al. 2021, arXiv:2103.03404), often from the start, so that nothing falls. A
    single layer says little: the output of a branch may be the same for all tokens while
    the stream beside it is not. But where the stream has collapsed, so has all that
    comes after it. So the layers are looked through from the last one back. Needs the
    quantity ``"token_rank"``.

    Attributes:
        rank: Tokens are the same if the effective rank of a sequence is at most this; 1
            is the least there is.
        residual: And if at most this share of them differs from their mean: one huge
            token among others makes the rank 1, too, but not this.
        share: So many of the layers, counted from the last, are a collapse. Half: a model
            that pools its tokens may make them equal towards its end and be none the
            worse.
        share_with_loss: The same if the loss stalls or rises, too.
        patience: How long it must last.
    """

    rank: float = 1.05
    residual: float = 0.01
    share: float = 0.5
    share_with_loss: float = 0.25
    patience: Patience = field(default_factory=Patience)
    name: str = "token_collapse"
    severity: Severity = "alarm"

    def __post_init__(self) -> None:
        """Check the options."""
        check_rule(self)
        check_number(self, "rank", 1.0, 2.0)
        check_number(self, "residual", 0.0, 1.0)
        check_number(self, "share", 0.0, 1.0)
        check_number(self, "share_with_loss", 0.0, 1.0)

    @property
    def measures(self) -> frozenset[str]:
        """Those that it reads."""
        return frozenset({RANK, RESIDUAL, LENGTH})

    def begin(self) -> "TokenCollapseState":
        """Start to observe one run."""
        return TokenCollapseState(self)


_ADVICE = (
    "The model cannot tell places in a sequence apart. Look at skip connections, at the "
    "scale of queries and keys, and at layer normalisation."
)


class TokenCollapseState(Reporting):
    """See `TokenCollapse`."""

    def __init__(self, rule: TokenCollapse) -> None:
        self._rule = rule
        super().__init__(rule, rule.patience)
        self._loss = LossLevel()

    def observe(self, reading: Reading) -> list[AlarmEvent]:
        """Take in one record."""
        self._loss.observe(reading.loss)
        measured = [
            (layer, values[RANK], same(values, self._rule))
            for layer, values in reading.values.items()
            if RANK in values and (layer, "tokens") not in reading.limited
        ]
        if len(measured) < 2:
            return []
        collapsed = 0
        while collapsed < len(measured) and measured[-1 - collapsed][2]:
            collapsed += 1
        share = collapsed / len(measured)
        needed = self._rule.share_with_loss if self._loss.state else self._rule.share
        on = collapsed >= 2 and share >= needed
        first, rank, _ = measured[len(measured) - max(collapsed, 1)]

        def words() -> str:
            return (
                f"From layer {named(first)} to the last, {collapsed} of {len(measured)} "
                "layers, all tokens of a sequence are the same (effective rank "
                f"{number(rank)} there)"
            )

        sign = Sign(
            ("", "tokens"),
            on,
            share < 0.5 * needed,
            share,
            words,
            {
                "rank": rank,
                "collapsed": float(collapsed),
                "measured": float(len(measured)),
            },
        )
        return self._reporter.report(reading.step, [sign], _ADVICE)


def same(values: Mapping[str, float], rule: TokenCollapse) -> bool:
    """Whether the tokens that leave a layer are the same.

    Args:
        values: Of the layer at one record, with the rank.
        rule: What is called the same.

    Returns:
        False for sequences of one token, which are the same as nothing.
    """
    return (
        values[RANK] <= rule.rank
        and values.get(RESIDUAL, 0.0) <= rule.residual
        and values.get(LENGTH, 2.0) >= 2.0
    )
