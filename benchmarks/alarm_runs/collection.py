"""All runs of the collection."""

from alarm_runs import (
    adversarial,
    hard,
    others,
    plateaus,
    published,
    supervised,
    transformers,
    views,
)

RUNS = (
    *published.RUNS,
    *supervised.RUNS,
    *transformers.RUNS,
    *views.RUNS,
    *others.RUNS,
    *plateaus.RUNS,
    *adversarial.RUNS,
    *hard.RUNS,
)
