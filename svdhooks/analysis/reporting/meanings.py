"""What each measure says, in one sentence; docs/measures.md has the definitions."""

from collections.abc import Mapping
from dataclasses import dataclass

from svdhooks.display.overview import HEADLINES, title_of

_OF = {
    "weight": "the layer's weight",
    "heads": "the parts of the weight that belong to the attention heads (median)",
    "update": "the weight's change since the last record",
    "drift": "the weight's change since the start",
    "input": "what enters the layer (centred covariance over the samples)",
    "output": "what leaves the layer, before the nonlinearity (centred covariance over the samples)",
    "jacobian": "how the layer's output answers to the model's input (mean over samples)",
    "ledger": "",
    "subspace": "",
    "edges": "",
    "tokens": "the tokens of one sequence (not centred, mean over sequences)",
    "attention_logits": "",
    "expert_load": "",
    "input_moments": "what enters the layer",
    "output_moments": "what leaves the layer",
}
"""Point -> of what its measures are."""

_RANKS = {
    "stable_rank": "Directions in use, counted by the strongest: falls when one takes over, blind to weak ones",
    "effective_rank": "Directions in use, by the entropy of the singular values: weak directions count too",
    "variance_effective_rank": "Directions in use, by the entropy of the variances: some packages call this effective rank",
    "participation_ratio": "Directions in use, by how evenly the variances are shared",
    "numerical_rank": "Directions that are not zero within rounding: an exact loss of rank, and nothing less",
    "nuclear_ratio": "Sum of the singular values over the largest",
    "nesum": "Sum of the eigenvalues over the largest: equal to the stable rank",
    "gavish_donoho_rank": "Directions worth keeping, if the rest is noise of one size",
    "outlier_count": "Directions that exceed what noise alone would reach",
    "lidar": "Directions that separate samples from their own augmented views",
}

_SHARED = _RANKS | {
    "spectral_entropy": "How even the spectrum is: 0 is one direction, 1 is all alike",
    "condition_number": "Largest over smallest singular value: infinite where the matrix is singular",
    "spectral_norm": "The largest singular value: the largest gain",
    "frobenius_norm": "Size of the matrix: root of the sum of squared singular values",
    "noise_floor": "Values below this may be rounding",
    "total_variance": "Sum of the variances: a collapse to one point reads 0",
    "largest_eigenvalue": "Variance along the strongest direction",
    "mean_norm": "Length of the mean: far larger than the spread where samples hardly differ",
    "count": "Number of samples behind this",
    "rank_limit": "No rank can exceed this: the features, or one less than the samples",
    "dead_fraction": "Share of the units that are never positive on these samples",
    "always_on_fraction": "Share of the units that are positive on all these samples",
    "dormant_fraction": "Share of the units that are hardly active compared with the others",
    "rank_bound": "The rank that the adapter may have",
    "rank_used": "Share of the adapter's rank that is in use",
    "relative_norm": "Size of the change, relative to the weight",
    "left_alignment": "Share of the change within the weight's leading output directions",
    "right_alignment": "Share of the change within the weight's leading input directions",
    "alignment": "Share of the change within the weight's leading directions on both sides",
    "diagonal_alignment": "Share of the change that rescales the weight's leading directions and does not turn them",
    "since_step": "Step since which the change is counted",
    "lidar_limit": "LiDAR cannot exceed this",
    "saturation": "Share of the directions that hold 99 % of the variance",
    "alpha_req": "How fast the eigenvalues decay: the larger, the fewer directions matter",
    "power_law_alpha": "Exponent of a power law fitted to the tail of the spectrum: read its distance first",
    "power_law_ks_distance": "How far the tail is from a power law: above 1/√(tail size) it is none",
    "power_law_tail_size": "Singular values in the fitted tail; 0 where nothing was fitted",
    "power_law_error": "Standard error of the power law's exponent",
    "marchenko_pastur_edge": "Where the spectrum of noise alone would end",
    "mp_soft_rank": "Noise edge over the largest value: about 1 is noise, towards 0 is signal",
}

_OWN: Mapping[str, Mapping[str, str]] = {
    "jacobian": {
        "local_rank": "Directions of the model's input that the layer still tells apart, by an absolute threshold: moves with the scale of the weights alone",
        "relative_local_rank": "Directions of the model's input that the layer still tells apart, relative to the strongest",
        "eps": "The absolute threshold of the local rank",
        "relative_eps": "The threshold of the local rank, relative to the strongest direction",
        "samples": "Number of samples of the local rank",
        "directions": "Directions of the input that were tried",
        "weight_rank": "Singular values of the layer's own weight above the absolute threshold, to compare with",
        "relative_weight_rank": "Singular values of the layer's own weight above the relative threshold, to compare with",
        "weight_stable_rank": "Stable rank of the layer's own weight, to compare with",
        "rank_bound": "The local rank cannot exceed this; known of plain ReLU chains only",
    },
    "ledger": {
        "input_null_share": "Share of the input's variance that the weight throws away: compare with the share that chance gives",
        "input_null_dimension": "Input directions that the weight throws away",
        "nonlinearity_removed_share": "Share of the variance that the nonlinearity behind the layer removes; a ReLU removes 66 % of a centred Gaussian's",
        "count": "Number of samples behind this",
        "negative_fraction": "Share of the pre-activations below 0",
        "information": "What the output keeps under noise, in nats: an upper bound, to be compared at the same noise",
        "information_slope": "Directions of the output that stand out of the noise",
        "noise": "The noise to which the information refers",
    },
    "subspace": {
        "left_overlap_last": "Share of the leading output directions that are still those of the last record",
        "right_overlap_last": "Share of the leading input directions that are still those of the last record",
        "left_overlap_start": "Share of the leading output directions that are still those of the start",
        "right_overlap_start": "Share of the leading input directions that are still those of the start",
        "left_angle_last": "Largest angle by which the leading output directions turned since the last record",
        "right_angle_last": "Largest angle by which the leading input directions turned since the last record",
        "left_angle_start": "Largest angle by which the leading output directions turned since the start",
        "right_angle_start": "Largest angle by which the leading input directions turned since the start",
        "gap": "How far the leading directions stand apart from the next: where it is small they turn by nothing",
        "chance_left": "The overlap that unrelated output directions would have",
        "chance_right": "The overlap that unrelated input directions would have",
        "since_step": "Step of the last record, since which turning is counted",
    },
    "edges": {
        "significant": "Links between the two layers' directions that exceed chance: compare with how many chance alone would give",
        "significant_share": "Share of the links between the two layers' directions that exceed chance",
        "expected_false": "Links that chance alone would give",
        "top": "The strongest link between the two layers' directions: 1 is the same direction",
        "internal_out": "Leading directions of the later layer that are joined with the earlier one beyond chance",
        "internal_in": "Leading directions of the earlier layer that are joined with the later one beyond chance",
        "threshold": "What a link has to exceed to count",
        "features": "Features in which the directions meet",
        "rows": "Directions of the later layer that are compared",
        "columns": "Directions of the earlier layer that are compared",
    },
    "tokens": {
        "residual": "What tells the tokens of one sequence apart, as a share: 0 where they became equal",
        "length": "Tokens in a sequence (mean)",
        "count": "Number of sequences behind this",
        "effective_rank": "Directions in use within one sequence: 1 where its tokens became equal",
        "stable_rank": "Directions in use within one sequence, counted by the strongest: 1 where its tokens became equal",
    },
    "attention_logits": {
        "max": "Largest bound on the attention logits over the heads: growth without end precedes divergence",
        "median": "Bound on the attention logits, median over the heads",
        "min": "Smallest bound on the attention logits over the heads",
        "scaled_max": "Largest bound on the attention logits over the heads, with the scale of the attention",
        "heads": "Number of attention heads",
    },
    "expert_load": {
        "idle_experts": "Experts that get no token of the reference batch",
        "largest_share": "Share of the tokens that the busiest expert gets",
        "effective_experts": "Experts in use, by the entropy of their shares",
        "count": "Number of tokens behind this",
    },
}

_ENDS = {
    "_min": "smallest",
    "_max": "largest",
    "_std": "standard deviation",
    "_error": "error",
}

_OVER = {"jacobian": "the samples", "tokens": "the sequences"}
_MANY = "the experts or heads"

_UNITS = {
    **dict.fromkeys(_RANKS, "directions"),
    **dict.fromkeys(("local_rank", "relative_local_rank"), "directions"),
    **dict.fromkeys(("information_slope", "input_null_dimension"), "directions"),
    **dict.fromkeys(("weight_rank", "relative_weight_rank"), "directions"),
    **dict.fromkeys(("rank_bound", "rank_limit", "lidar_limit"), "directions"),
    **dict.fromkeys(("internal_in", "internal_out", "rows", "columns"), "directions"),
    **{
        f"{side}_angle_{since}": "degrees"
        for side in ("left", "right")
        for since in ("last", "start")
    },
    "information": "nats",
    "total_variance": "activation²",
    "largest_eigenvalue": "activation²",
    "mean_norm": "activation",
}

_SHARES = frozenset({
    *("spectral_entropy", "dead_fraction", "always_on_fraction", "dormant_fraction"),
    *("rank_used", "saturation", "left_alignment", "right_alignment", "alignment"),
    *("input_null_share", "negative_fraction", "significant_share", "top"),
    *("left_overlap_last", "right_overlap_last", "left_overlap_start"),
    *("right_overlap_start", "residual", "largest_share"),
})
"""Measures between 0 and 1."""

_BOOKKEEPING = frozenset({
    *("noise_floor", "count", "rank_limit", "lidar_limit", "since_step", "length"),
    *("eps", "relative_eps", "samples", "directions", "features", "rows", "columns"),
    *("threshold", "chance_left", "chance_right", "noise", "heads"),
})
"""What is said of a measurement rather than of the model."""


@dataclass(frozen=True)
class Meaning:
    """One measure, for people.

    Attributes:
        metric: ``<point>_<field>``.
        point: Of which matrix.
        field: Which measure of it.
        title: Its name in words.
        text: What it says, a sentence.
        unit: In words; empty if it has none.
    """

    metric: str
    point: str
    field: str
    title: str
    text: str
    unit: str

    @property
    def rank(self) -> bool:
        """Whether it counts directions of a matrix whose size bounds it."""
        return self.field in _RANKS

    @property
    def share(self) -> bool:
        """Whether it lies between 0 and 1."""
        return self.field in _SHARES

    @property
    def order(self) -> tuple[int, int, int]:
        """Sorts measures: what shows a collapse first, bookkeeping last."""
        if self.metric in HEADLINES:
            return (0, HEADLINES.index(self.metric), 0)
        point = [*_OF].index(self.point) if self.point in _OF else len(_OF)
        ended = any(self.field.endswith(end) for end in _ENDS)
        kind = 3 if self.field in _BOOKKEEPING else 2 if ended else 1
        known = [*_SHARED, *_OWN.get(self.point, {})]
        place = known.index(self.field) if self.field in known else len(known)
        return (kind, place, point)


def meaning_of(metric: str) -> Meaning:
    """What a measure says.

    Args:
        metric: ``<point>_<field>``, as in ``log.metrics``.

    Returns:
        Its meaning; of a measure that this package does not know, that it is so.
    """
    point = max((p for p in _OF if metric.startswith(f"{p}_")), key=len, default="")
    field = metric.removeprefix(f"{point}_") if point else metric
    text = _text(point, field)
    if not text:
        text = "Recorded by a quantity that is not of svdhooks, which cannot say more"
    unit = _UNITS.get(field, "")
    return Meaning(metric, point, field, title_of(metric), f"{text}.", unit)


def known(metric: str) -> bool:
    """Whether there is a sentence for a measure."""
    meaning = meaning_of(metric)
    return bool(_text(meaning.point, meaning.field))


def _text(point: str, field: str) -> str:
    """A sentence without its point; empty if the measure is not known."""
    own = _OWN.get(point, {})
    if field in own:
        return own[field]
    if point in _OF and field in _SHARED:
        return f"{_SHARED[field]}; of {_OF[point]}" if _OF[point] else _SHARED[field]
    if field.endswith("_error") and (
        text := _text(point, field.removesuffix("_error"))
    ):
        return f"How far off the estimate may be. {text}"
    for end, word in _ENDS.items():
        base = field.removesuffix(end)
        if base != field and (text := _text(point, base)):
            return f"{word.capitalize()} over {_OVER.get(point, _MANY)}: {text}"
    return ""
