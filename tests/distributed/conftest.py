"""Several processes for the tests of this folder; one worker of pytest runs them all."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed.harness import Ranks

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.distributed)
            item.add_marker(pytest.mark.xdist_group("distributed"))


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    several = Ranks(tmp_path_factory.mktemp("ranks"))
    yield several
    several.close()
