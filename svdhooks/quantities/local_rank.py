"""Local rank: how many directions of the input a layer's pre-activation still tells apart."""

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from svdhooks import linalg
from svdhooks.jacobians.local_rank import LocalRank
from svdhooks.jacobians.options import JacobianOptions, LayerJacobian, check_threshold
from svdhooks.layers import Layer
from svdhooks.layers.tap import Watched
from svdhooks.quantities.protocols import JacobianContext
from svdhooks.quantities.values import NON_FINITE, pack, unknown
from svdhooks.record import OK, Record
from svdhooks.schedule import Schedule, log_spaced

POINT = "jacobian"
_SPREAD = ("", "_std", "_min", "_max")
JACOBIAN_MEASURES = (
    *(f"local_rank{end}" for end in _SPREAD),
    *(f"relative_local_rank{end}" for end in _SPREAD),
    "effective_rank",
    "stable_rank",
    "spectral_norm",
    "frobenius_norm",
    "eps",
    "relative_eps",
    "samples",
    "directions",
)
WEIGHT_MEASURES = ("weight_rank", "relative_weight_rank", "weight_stable_rank")
BOUND = "rank_bound"


@dataclass(frozen=True, kw_only=True)
class JacobianSpectrum(JacobianOptions):
    """The singular values of each layer's Jacobian input -> pre-activation, and its rank.

    The local rank of layer l is the mean over samples x of the number of singular values
    of ``J = dz_l/dx`` above ε (Patel & Shwartz-Ziv, arXiv 2410.07687; ε = 0.01 absolute is
    theirs). It falls late in training. An absolute ε moves with the scale of the weights
    alone, so that of ``σ > ε·σ₁`` is recorded too: ``relative_local_rank``. Filed with point
    ``"jacobian"``: the spectrum is the mean over samples; both ranks with their standard
    deviation (1/N), minimum and maximum over samples; means of effective rank, stable
    rank, ``spectral_norm`` σ₁ and ``frobenius_norm``. Next to it ``weight_rank`` (σ > ε),
    ``relative_weight_rank`` and ``weight_stable_rank`` of the layer's weight. In chains of
    linear layers and ReLU ``rank_bound``, the number of singular values of the weight
    above ε/κ with κ the product of the spectral norms before it, which no sample's local
    rank exceeds.

    Where the input has too many dimensions for all of them, ``directions`` random ones
    are taken, the same for all samples and records: singular values and the absolute rank
    are lower bounds then, and marked ``lower_bound``. The relative rank is an estimate
    there, since σ₁ of the sketch, to which it is relative, is a lower bound as well.

    Attributes:
        eps: Absolute threshold, in units of output over input.
        relative_eps: Threshold relative to the largest singular value.
        schedule: Its own schedule; None: the recorder's. By default ten records per
            factor of ten in steps: it is costly and lives on log time.
    """

    eps: float = 0.01
    relative_eps: float = 0.01
    schedule: Schedule | None = field(default_factory=log_spaced)

    def __post_init__(self) -> None:
        """Check the thresholds and the options.

        Raises:
            TypeError: If one is of a wrong kind.
            ValueError: If one is out of range.
        """
        super().__post_init__()
        for name in ("eps", "relative_eps"):
            check_threshold(name, getattr(self, name))

    @property
    def name(self) -> str:
        """Under which its records are filed."""
        return "local_rank"

    @property
    def jacobian_options(self) -> JacobianOptions:
        """How the Jacobians are found."""
        return self

    def differentiated(self, layer: Watched) -> bool:
        """Whether a layer is concerned: it has an output, and is no table of tokens."""
        return "output" in layer.points and getattr(layer, "kind", "") != "embedding"

    def of_jacobian(
        self, layer: Watched, jacobian: LayerJacobian, context: JacobianContext
    ) -> Record:
        """The record of one layer.

        Args:
            layer: The layer or tap.
            jacobian: Of all samples.
            context: Weights, and which layers are a chain.

        Returns:
            The record; NaN where the Jacobian could not be found.
        """
        status = jacobian.status
        spectra = jacobian.spectra.double().numpy()
        if status == OK and not len(spectra):
            status = "no samples"
        if status == OK and not np.isfinite(spectra).all():
            status = NON_FINITE
        names = measures_of(layer)
        if status == OK:
            found = self._measures(jacobian) | self._of_weight(layer, context)
            if jacobian.outputs == layer.points["output"]:  # a single position
                found |= self._bound(layer, context)
            mean = spectra.mean(axis=0).astype(_dtype(jacobian.spectra))
            values = pack(mean, {name: found.get(name, np.nan) for name in names})
        else:
            values = unknown(jacobian.spectra.shape[-1], names)
        return Record(
            context.step,
            layer.name,
            self.name,
            values,
            status=status,
            method=jacobian.method,
            point=POINT,
            marks=() if jacobian.complete or status != OK else ("lower_bound",),
        )

    def _measures(self, jacobian: LayerJacobian) -> dict[str, float]:
        spectra = jacobian.spectra
        absolute = LocalRank.of(jacobian, self.eps, relative=False)
        relative = LocalRank.of(jacobian, self.relative_eps, relative=True)
        return {
            **_spread("local_rank", absolute),
            **_spread("relative_local_rank", relative),
            "effective_rank": float(linalg.effective_rank(spectra).mean()),
            "stable_rank": float(linalg.stable_rank(spectra).mean()),
            "spectral_norm": float(linalg.spectral_norm(spectra).mean()),
            "frobenius_norm": float(jacobian.frobenius.double().mean()),
            "eps": float(self.eps),
            "relative_eps": float(self.relative_eps),
            "samples": float(len(spectra)),
            "directions": float(jacobian.directions),
        }

    def _of_weight(self, layer: Watched, context: JacobianContext) -> dict[str, float]:
        sigma = context.weights.get(layer.name)
        if sigma is None:
            return {}
        return {
            "weight_rank": float((sigma > self.eps).sum()),
            "relative_weight_rank": float((sigma > self.relative_eps * sigma[0]).sum()),
            "weight_stable_rank": float(linalg.stable_rank(sigma)),
        }

    def _bound(self, layer: Watched, context: JacobianContext) -> dict[str, float]:
        """``rank_{ε/κ}(W)``: a theorem where ``J = W D W … D W``, with ‖D‖ ≤ 1."""
        before, known = context.chains.get(layer.name), context.weights
        if before is None or not {layer.name, *before} <= known.keys():
            return {}
        kappa = float(np.prod([known[name][0] for name in before]))
        return {BOUND: float((known[layer.name] * kappa > self.eps).sum())}


def measures_of(layer: Watched) -> tuple[str, ...]:
    """What is recorded of a layer or tap.

    Args:
        layer: The layer or tap.

    Returns:
        Names of measures.
    """
    if not isinstance(layer, Layer) or layer.experts:
        return JACOBIAN_MEASURES
    bound = (BOUND,) if layer.kind == "linear" else ()
    return (*JACOBIAN_MEASURES, *WEIGHT_MEASURES, *bound)


def _spread(name: str, ranks: LocalRank) -> dict[str, float]:
    found = (ranks.mean, ranks.std, ranks.min, ranks.max)
    return {f"{name}{end}": x for end, x in zip(_SPREAD, found, strict=True)}


def _dtype(spectra: Tensor) -> type[np.floating]:
    return np.float64 if spectra.dtype.itemsize > 4 else np.float32
