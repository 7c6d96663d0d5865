"""How large the logits of attention can become, head by head."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from svdhooks import linalg
from svdhooks.flow import Flow
from svdhooks.layers import AttentionPair, LayerTable
from svdhooks.quantities.values import NON_FINITE, pack, unknown
from svdhooks.record import OK, Record
from svdhooks.schedule import Schedule

LOGIT_MEASURES = ("max", "median", "min", "scaled_max", "heads")


@dataclass(frozen=True)
class AttentionLogits:
    """The bound σ₁(W_QᵀW_K) on the attention logits of each head.

    Logits that grow without bound make attention one-hot and its gradients vanish
    (entropy collapse, Zhai et al. 2023). ``|logit| ≤ scale·σ₁·‖x‖·‖y‖``; the records hold
    σ₁ of all heads as their spectrum, and ``scaled_max`` = scale·max. Filed under the
    name of the attention module, with point ``"attention_logits"``.

    Attributes:
        schedule: Its own schedule; None: the recorder's.
    """

    schedule: Schedule | None = None

    @property
    def name(self) -> str:
        """Under which its records are filed."""
        return "attention_logits"

    def edges(
        self,
        table: LayerTable,
        flow: Flow,  # noqa: ARG002  # the protocol's
        model: nn.Module | None = None,  # noqa: ARG002
    ) -> Sequence[AttentionPair]:
        """The query and key projections that belong together."""
        return table.attention

    def measure_edge(self, edge: AttentionPair, step: int) -> Record:
        """Measure one attention module.

        Args:
            edge: Its query and key projection.
            step: Optimiser updates contained in the weights.

        Returns:
            The record.
        """
        query, key = edge.query.weight(), edge.key.weight()
        if not bool(query.isfinite().all() and key.isfinite().all()):
            return self.failed_edge(edge, step, NON_FINITE)
        bounds = linalg.attention_logit_bound(query, key, edge.heads, edge.key_heads)
        sigma = np.sort(bounds.cpu().numpy())[::-1].astype(np.float32)
        measures = {
            "max": float(sigma[0]),
            "median": float(np.median(sigma)),
            "min": float(sigma[-1]),
            "scaled_max": edge.scale * float(sigma[0]),
            "heads": float(edge.heads),
        }
        return self._record(edge, step, pack(sigma, measures), OK)

    def failed_edge(self, edge: AttentionPair, step: int, status: str) -> Record:
        """The record of a measurement that failed: NaN values of the right shape."""
        return self._record(edge, step, unknown(edge.heads, LOGIT_MEASURES), status)

    def _record(
        self, edge: AttentionPair, step: int, values: dict[str, np.ndarray], status: str
    ) -> Record:
        return Record(
            step,
            edge.name,
            self.name,
            values,
            status=status,
            method="gram",
            point="attention_logits",
        )
