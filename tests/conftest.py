"""Seeds, threads and devices; the only place of the tests that reads the environment."""

import gc
import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings
from jaxtyping import config

# how long an example takes says nothing on a busy machine
settings.register_profile("untimed", settings(), deadline=None)
settings.load_profile("untimed")

# the suite runs in several processes on few cores
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # models under test use it
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_is_collected_meanwhile(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let no garbage of other tests be collected within one of hypothesis.

    It watches Python's random state, from which the type checks of the test run draw:
    those of what a forgotten recorder does at its end, too.
    """
    if request.node.get_closest_marker("hypothesis") is None:
        yield
        return
    gc.disable()
    yield
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def as_a_user_calls() -> Iterator[None]:
    """Without the type checks of the test run, so that our own messages are seen."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
