"""One fault in one rollout, against real servers, and everything that must hold afterwards.

| fixture | what |
|---|---|
| `story` | a `Story` in `own_world` where the test or another fixture of it asks for that, in `world` else |
| `own_postgres` | as everywhere; the settings are its parameter |

FEATUREROLLOUT_CHAOS is how often each fault is let in: once, unless a run shall be deep.
"""

from collections.abc import Callable, Iterator

import pytest

from feature_rollout.sandbox.postgres import PostgresServer
from support.depth import REPEATS
from support.operatorprocess import Operator
from support.story import Story
from support.witness import Witness
from support.world import World


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "repeat" in metafunc.fixturenames and REPEATS > 1:
        metafunc.parametrize("repeat", range(1, REPEATS + 1))


@pytest.fixture
def repeat() -> int:
    return 1


@pytest.fixture
def own_postgres(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    with PostgresServer(settings=getattr(request, "param", None)) as server:
        yield server


@pytest.fixture
def story(
    repeat: int,
    request: pytest.FixtureRequest,
    idle_operator: Operator,
    record_property: Callable[[str, object], None],
) -> Iterator[Story]:
    world: World = request.getfixturevalue("own_world" if "own_world" in request.fixturenames else "world")
    with Witness(world.database.uri()) as witness:
        yield Story(world, idle_operator, witness, record_property)
