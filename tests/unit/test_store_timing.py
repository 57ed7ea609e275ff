import pytest

from feature_rollout.ports import Problem
from feature_rollout.store.timing import timed


class Store:
    def __init__(self) -> None:
        self.calls: list[tuple[str, bool]] = []

    def on_call(self, operation: str, seconds: float) -> None:
        self.calls.append((operation, seconds >= 0))

    @timed
    async def read(self, key: str, *, progress: bool = False) -> tuple[str, bool]:
        return key, progress

    @timed
    async def lower(self) -> None:
        raise Problem("StoreUnreachable", "the server does not answer")


async def test_an_operation_is_told_of_by_its_name_also_when_it_fails() -> None:
    store = Store()
    assert await store.read("cluster/shop/checkout", progress=True) == ("cluster/shop/checkout", True)
    with pytest.raises(Problem):
        await store.lower()
    assert store.calls == [("read", True), ("lower", True)]
