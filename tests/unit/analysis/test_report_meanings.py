"""Every measure that the package records or derives has a sentence of its own."""

import re
from pathlib import Path

import pytest

from svdhooks import derived, linalg
from svdhooks.analysis.reporting.meanings import known, meaning_of
from svdhooks.display.overview import HEADLINES
from svdhooks.linalg.light import LIGHT_MEASURES
from svdhooks.quantities.attention import LOGIT_MEASURES
from svdhooks.quantities.drift import DRIFT_MEASURES
from svdhooks.quantities.expert_load import EXPERT_LOAD_MEASURES
from svdhooks.quantities.ledger_seen import LEDGER_MEASURES
from svdhooks.quantities.lidar import LIDAR_MEASURES
from svdhooks.quantities.local_rank import BOUND, JACOBIAN_MEASURES, WEIGHT_MEASURES
from svdhooks.quantities.moments import MOMENT_MEASURES
from svdhooks.quantities.spectral_edges import EDGE_MEASURES
from svdhooks.quantities.spread import COVARIANCE_MEASURES
from svdhooks.quantities.tokens import TOKEN_MEASURES
from svdhooks.quantities.update import UPDATE_MEASURES
from svdhooks.quantities.weight_spectrum import ADAPTER_MEASURES

MATRICES = ("weight", "heads", "update", "drift")
ENDS = ("", "_min", "_max")
FIELDS = {
    **{p: [f"{m}{end}" for m in linalg.MEASURES for end in ENDS] for p in MATRICES},
    **dict.fromkeys(("input", "output"), (*COVARIANCE_MEASURES, *LIDAR_MEASURES)),
    "jacobian": [*JACOBIAN_MEASURES, *WEIGHT_MEASURES, BOUND],
    "ledger": LEDGER_MEASURES,
    "subspace": DRIFT_MEASURES,
    "edges": EDGE_MEASURES,
    "tokens": TOKEN_MEASURES,
    "attention_logits": LOGIT_MEASURES,
    "expert_load": EXPERT_LOAD_MEASURES,
    "input_moments": MOMENT_MEASURES,
    "output_moments": MOMENT_MEASURES,
}
LIGHT = [f"weight_{m}_error" for m in LIGHT_MEASURES]
UPDATES = [f"{point}_{m}" for point in ("update", "drift") for m in UPDATE_MEASURES]
ADAPTERS = [f"weight_{m}" for m in ADAPTER_MEASURES]
DERIVED = [
    f"{point}_{field}"
    for point in (*MATRICES, "input", "output")
    for field in derived.FIELDS
    if derived.applicable(field, point)
]
RECORDED = [f"{point}_{m}" for point, fields in FIELDS.items() for m in fields]
METRICS = sorted({*RECORDED, *LIGHT, *UPDATES, *ADAPTERS, *DERIVED})


def test_the_table_covers_every_point_of_the_quantities() -> None:
    # what the code of the quantities names as a point, read from its text
    root = Path(derived.__file__).parent / "quantities"
    text = "\n".join(path.read_text() for path in root.glob("*.py"))
    named = set(re.findall(r'point="(\w+)"', text)) | set(
        re.findall(r'POINT = "(\w+)"', text)
    )
    assert named
    assert named <= set(FIELDS)


@pytest.mark.parametrize("metric", METRICS)
def test_a_measure_has_one_plain_sentence(metric: str) -> None:
    meaning = meaning_of(metric)
    assert known(metric)
    assert metric == f"{meaning.point}_{meaning.field}"
    assert meaning.title
    assert meaning.text[0].isupper()
    assert meaning.text.endswith(".")
    assert 20 < len(meaning.text) < 250
    assert "_" not in meaning.text


def test_sentences_of_one_point_differ() -> None:
    for point in FIELDS:
        texts = [meaning_of(m).text for m in METRICS if meaning_of(m).point == point]
        assert len(set(texts)) == len(texts), point


def test_a_point_whose_name_begins_with_another_is_told_apart() -> None:
    assert meaning_of("input_moments_count").point == "input_moments"
    assert meaning_of("input_mean_norm").point == "input"


def test_a_measure_of_a_users_own_quantity_is_said_to_be_unknown() -> None:
    meaning = meaning_of("sparsity_<b>share</b>")
    assert not known(meaning.metric)
    assert "not of svdhooks" in meaning.text
    assert meaning.unit == ""


def test_headlines_come_first_and_bookkeeping_last() -> None:
    ordered = sorted(METRICS, key=lambda metric: meaning_of(metric).order)
    assert tuple(ordered[: len(HEADLINES)]) == HEADLINES
    late = ordered.index("input_count")
    assert late > ordered.index("weight_participation_ratio")
    assert late > ordered.index("weight_stable_rank_min")
