"""The collapses of `svdhooks.experiments`, each beside its healthy twin."""

from collections.abc import Iterator

from alarm_runs.kit import Course, Run
from svdhooks.experiments import attention, collapse, plasticity
from svdhooks.experiments.digits import load_digits_images

TOKENS = ("weight_spectrum", "covariance", "token_rank", "attention_logits")


def simsiam(stop_gradient: bool, seed: int, steps: int = 1650) -> Course:
    """SimSiam; the truth is the nearest neighbours' share of equal labels."""
    images, labels = load_digits_images()
    model = collapse.SimSiam(seed)
    losses = collapse.train(
        model, images, stop_gradient=stop_gradient, seed=seed, steps=steps
    )
    return Course(
        model,
        losses,
        lambda: collapse.nearest_neighbour_accuracy(model.embed(images), labels),
        every=30,
        options={
            "probe": images[:512],
            "taps": {"embedding": "encoder", "projection": "projector"},
        },
    )


def continual(pull: float, seed: int, tasks: int) -> Course:
    """Task after task; the truth is the accuracy after the last whole task."""
    images, labels = load_digits_images()
    model = plasticity.Classifier(seed)
    per_task = plasticity.steps_per_task(len(images))
    steps = plasticity.train(
        model, images, labels, pull=pull, seed=seed, steps=tasks * per_task
    )
    accuracy = [0.0]

    def losses() -> Iterator[float]:
        for step in steps:
            if step.accuracy is not None:
                accuracy.append(step.accuracy)
            yield step.loss

    probe = images.flatten(1)[:512]
    # the mean of three tasks: single ones differ
    return Course(
        model,
        losses(),
        lambda: sum(accuracy[-3:]) / len(accuracy[-3:]),
        every=2 * per_task,
        options={"probe": probe},
    )


def upside_down(skip: bool, seed: int, steps: int = attention.STEPS) -> Course:
    """Attention without MLPs; the truth is its error."""
    images, _ = load_digits_images()
    model = attention.AttentionOnly(skip, seed)
    return Course(
        model,
        attention.train(model, images, seed=seed, steps=steps),
        lambda: attention.error(model, images),
        every=12,
        options={"probe": images[:128], "quantities": TOKENS},
    )


NEIGHBOURS = "share of nearest neighbours with the same label"
AFTER_TASK = "accuracy after a task, mean of three"
ERROR = "mean squared error"
# 0.9 of what answers have that are the same for all rows of an image
FLOOR = 0.055

RUNS = (
    Run(
        "simsiam", "SimSiam, SGD", "ssl", True, NEIGHBOURS, 0.975,
        lambda: simsiam(True, 0),
    ),
    Run(
        "simsiam_no_stop", "SimSiam without stop-gradient, SGD", "ssl", False,
        NEIGHBOURS, 0.975, lambda: simsiam(False, 0),
    ),
    Run(
        "tasks_l2_init", "task after task with L2 init, Adam", "supervised", True,
        AFTER_TASK, 0.6, lambda: continual(plasticity.PULL, 0, 120),
    ),
    Run(
        "tasks_plain", "task after task, Adam: loss of plasticity", "supervised",
        False, AFTER_TASK, 0.6, lambda: continual(0.0, 0, 120),
    ),
    Run(
        "attention_skips", "12 blocks of attention with skips, Adam", "lm", True,
        ERROR, FLOOR, lambda: upside_down(True, 0), below=True,
    ),
    Run(
        "attention_no_skips", "12 blocks of attention without skips, Adam", "lm",
        False, ERROR, FLOOR, lambda: upside_down(False, 0), below=True,
    ),
    Run(
        "simsiam_seed_3", "SimSiam, SGD, another seed", "ssl", True, NEIGHBOURS,
        0.975, lambda: simsiam(True, 3), held_out=True,
    ),
    Run(
        "simsiam_no_stop_seed_3", "SimSiam without stop-gradient, another seed",
        "ssl", False, NEIGHBOURS, 0.975, lambda: simsiam(False, 3), held_out=True,
    ),
    Run(
        "tasks_l2_init_seed_2", "task after task with L2 init, another seed",
        "supervised", True, AFTER_TASK, 0.6,
        lambda: continual(plasticity.PULL, 2, 120), held_out=True,
    ),
    Run(
        "tasks_plain_seed_2", "task after task, another seed", "supervised", False,
        AFTER_TASK, 0.6, lambda: continual(0.0, 2, 120), held_out=True,
    ),
    Run(
        "attention_skips_seed_2", "attention with skips, another seed", "lm", True,
        ERROR, FLOOR, lambda: upside_down(True, 2), below=True, held_out=True,
    ),
    Run(
        "attention_no_skips_seed_2", "attention without skips, another seed", "lm",
        False, ERROR, FLOOR, lambda: upside_down(False, 2), below=True,
        held_out=True,
    ),
)  # fmt: skip
