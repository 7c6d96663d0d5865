"""What is measured, and how: what all parts of a measurement share."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from svdhooks.jacobians.model import InputPoint, Perturbable
from svdhooks.jacobians.options import JacobianOptions
from svdhooks.jacobians.passes import Passes
from svdhooks.jacobians.thinned import Thinned
from svdhooks.layers import PointValue
from svdhooks.layers.tap import Watched
from svdhooks.probe import ReferenceBatch


@dataclass(frozen=True, eq=False)
class Setting:
    """What is measured, and how.

    Attributes:
        model: The model.
        reference: The batch.
        watched: The layers.
        options: How the Jacobians are taken.
        passes: Makes the passes.
        thinned: Keeps of the outputs of a whole batch what fits.
    """

    model: Perturbable
    reference: ReferenceBatch
    watched: Sequence[Watched]
    options: JacobianOptions
    passes: Passes
    thinned: Thinned

    def outputs(
        self, point: InputPoint, delta: Tensor | None = None
    ) -> tuple[dict[str, PointValue], dict[str, Exception]]:
        """Call the model once with the whole batch.

        Args:
            point: The input point.
            delta: What is added there.

        Returns:
            Layer -> what fits of its output; layer -> why it cannot be read.
        """
        model, watched = self.model, self.watched
        return model.outputs(self.reference, watched, point, delta, self.thinned)
