import asyncio

from feature_rollout.kube.ratelimit import TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_and_then_a_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(per_second=2, burst=3, clock=clock)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    clock.now += 0.5
    assert [bucket.take() for _ in range(2)] == [True, False]
    clock.now += 3600
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_goes_back_gives_nothing_and_takes_nothing() -> None:
    clock = Clock()
    bucket = TokenBucket(per_second=1, burst=2, clock=clock)
    assert bucket.take()
    clock.now -= 50
    assert bucket.take()
    assert not bucket.take()


async def test_waiting_takes_as_long_as_it_must() -> None:
    bucket = TokenBucket(per_second=100, burst=1)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(4):
        await bucket.acquire()
    assert 0.03 <= loop.time() - began < 5


async def test_the_urgent_go_first_and_each_kind_in_order() -> None:
    clock = Clock()
    bucket = TokenBucket(per_second=1, burst=1, clock=clock)
    order: list[str] = []

    async def wait(name: str, *, urgent: bool) -> None:
        await bucket.acquire(urgent=urgent)
        order.append(name)

    await bucket.acquire()
    async with asyncio.TaskGroup() as tasks:
        for name, urgent in (("a", False), ("b", False), ("c", True), ("d", True)):
            tasks.create_task(wait(name, urgent=urgent))
        await serve(bucket, clock, 4)
    assert order == ["c", "d", "a", "b"]


async def test_one_who_gives_up_takes_no_token() -> None:
    clock = Clock()
    bucket = TokenBucket(per_second=1, burst=1, clock=clock)
    await bucket.acquire()
    gives_up = asyncio.create_task(bucket.acquire(urgent=True))
    stays = asyncio.create_task(bucket.acquire())
    await asyncio.sleep(0)
    gives_up.cancel()
    await serve(bucket, clock, 1)
    assert stays.done()


async def serve(bucket: TokenBucket, clock: Clock, seconds: int) -> None:
    """Let so many seconds pass, as the bucket sees it, without waiting for them."""
    for _ in range(seconds):
        await asyncio.sleep(0)
        clock.now += 1
        bucket._serve()
    await asyncio.sleep(0)
