"""What has to be known of a model before its Jacobians are taken."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from svdhooks.jacobians.function import PointAxis
from svdhooks.jacobians.samples import Layout
from svdhooks.linalg.jacobian import Method


@dataclass
class Study:
    """What was found out.

    Attributes:
        at: The input point and its axis of samples.
        n: Number of samples of the batch.
        way: How to take some samples of the batch; None: it cannot be taken apart.
        layouts: Where the samples are in the output of each layer that can be measured.
        alone: Layers that are measured with one sample at a time.
        sizes: Dimension of the output of one sample.
        reasons: Why the other layers cannot be measured.
        unmoved: Those of them that did not depend on the input point.
        methods: How each layer is differentiated.
        writes: Whether the forward changes parameters.
        first: The first layer, if the basis is taken at its output.
        inner: Its output, as the input point.
        fleeting: Whether some of it may be different the next time.
        late: Layers for which there was no time, by how long they wait.
    """

    at: PointAxis
    n: int
    way: Mapping[int, int] | None = None
    layouts: dict[str, Layout] = field(default_factory=dict)
    alone: set[str] = field(default_factory=set)
    sizes: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    unmoved: set[str] = field(default_factory=set)
    methods: dict[str, Method] = field(default_factory=dict)
    writes: bool = False
    first: str | None = None
    inner: PointAxis | None = None
    fleeting: bool = False
    late: list[str] = field(default_factory=list)

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Measure some layers no more.

        Args:
            reasons: Layer -> why.
        """
        self.reasons |= reasons
        for name in reasons:
            self.layouts.pop(name, None)
            self.alone.discard(name)
