"""Learn U and V again with every S fixed, and see whether the original comes back.

The claim under test is a sentence of a comment on "Generalized Heat Engine II" (2020,
https://greaterwrong.com/posts/eKiRX5oXHcYzQNSGw/generalized-heat-engine-ii-thermodynamic-efficiency-limit/comment/pa5AHgTbDzGXAZDLn):
take a trained network, hold every S of ``W = U S Vᵀ`` fixed, randomise all U and V, and
optimise again over orthogonal U and V: the recovered U and V should be similar to the
original ones. For one linear layer with white inputs this is a theorem (von Neumann's trace
inequality); for a network it is a question.

Five controls give it content: ``haar`` (random U and V, not trained), ``free`` (a network
trained from scratch), ``shuffled_s`` (singular values dealt out anew among layers),
``flat_s`` (all equal, with the same norm), ``perturbed`` (starts from the true U and V,
turned a little). The claim says something only if ``fixed_s`` is closer to the original
than ``free`` and ``flat_s`` are.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from svdhooks.experiments.digits import load_digits_images
from svdhooks.experiments.refit.networks import check_model
from svdhooks.experiments.refit.result import RefitResult, Row
from svdhooks.experiments.refit.seed import (
    Clock,
    OneSeed,
    Tell,
    generator_of,
)
from svdhooks.experiments.refit.settings import RefitSettings
from svdhooks.experiments.refit.store import RefitStore
from svdhooks.experiments.refit.training import split


def run_refit(
    settings: RefitSettings,
    out: str | Path,
    *,
    model: nn.Sequential | None = None,
    data: tuple[Float[Tensor, "n ..."], Shaped[Tensor, "n ..."]] | None = None,
    tell: Tell | None = None,
) -> RefitResult:
    """Run the experiment, or go on where an earlier call stopped.

    Args:
        settings: What to do.
        out: Directory of the results; each seed and arm is stored as soon as it is there.
            With more seeds than before, the new ones are added.
        model: A trained network of your own; then ``settings.widths`` has no meaning, and
            seeds differ in what is random afterwards. None: networks are trained first.
        data: Inputs and classes, or inputs and targets of a squared loss. None:
            scikit-learn's digits.
        tell: Told what goes on.

    Returns:
        The scores.

    Raises:
        ValueError: If ``out`` holds results of other settings, or a setting makes no sense.
        TypeError: If the model is not of linear layers and modules without parameters.
        ImportError: If scikit-learn is not installed and there are no data.
        FloatingPointError: If a training diverges.
    """
    x, y = _digits() if data is None else data
    if model is not None:
        check_model(model)
    described = asdict(settings)
    del described["seeds"]
    store = RefitStore(
        Path(out), {**described, "data": _fingerprint(x, y, model=model)}
    )
    clock = Clock(tell, settings)
    table: list[Row] = []
    trajectory: list[Row] = []
    for seed in range(settings.seeds):
        one = OneSeed(
            settings, seed, split(x, y, generator_of(seed, 0), settings.test_share)
        )
        found = one.run(store, model, clock)
        table += found.table
        trajectory += found.trajectory
    return RefitResult(table, trajectory)


def _digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits_images()
    return images.flatten(1), labels


def _fingerprint(x: Tensor, y: Tensor, model: nn.Module | None) -> str:
    """Tells whether data and model are those of an earlier call."""
    digest = hashlib.sha256()
    parts = {"x": x, "y": y, **({} if model is None else model.state_dict())}
    for name, value in parts.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    if model is not None:
        digest.update(repr(model).encode())
    return digest.hexdigest()[:16]
