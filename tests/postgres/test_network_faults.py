"""The network fails in every phase of a transaction, in every way: what is said to be done is done, once.

The table at the end of the run has the seconds from the end of the fault to the committed change, and those of the
longest call, which must end while the fault still lasts.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from feature_rollout.core.state import Ledger
from feature_rollout.ports import Commit, Problem
from feature_rollout.postgres import APPLICATION_NAME
from feature_rollout.store import PostgresFlagStore
from postgres.world import KEY, World, claim, everyone, lowering, why
from support import network
from support.audit import violations
from support.depth import DEEP
from support.network import FAULTS, LASTING, PHASES, Network
from support.waiting import wait_for, wait_for_async

# A server ends a transaction that was left open after 5 s; until then it holds the row. The rest is for slow machines.
DONE_S_MAX = 30.0
FLAG = "alpha"


def through(world: World, network: Network) -> PostgresFlagStore:
    uri = world.database.uri(world.writer).replace(f":{world.database.server.port}/", f":{network.port}/")
    return world.new_store(writer_uri=uri)


async def raise_once(store: PostgresFlagStore, ledger: Ledger, begins: Callable[[], None]) -> bool:
    """What a session does: look at the ledger first, and raise only when it was not done."""
    snapshot = await store.read(KEY, [FLAG])
    if snapshot.ledger.sequence > ledger.sequence:
        return True
    before, after = dict(snapshot.rows), {FLAG: everyone(50)}
    begins()
    change = replace(snapshot.ledger, stage=1, baseline=before, written=after)
    await store.commit(Commit(change, before, after, why("StageEntered")))
    return True


async def lower_once(store: PostgresFlagStore, ledger: Ledger, begins: Callable[[], None]) -> bool:
    begins()
    await store.lower(lowering([FLAG], why=why("FlagsDisabled")))
    return True


Verb = Callable[[PostgresFlagStore, Ledger, Callable[[], None]], Awaitable[bool]]
VERBS: dict[str, Verb] = {"raise": raise_once, "revert": lower_once}


def connections(world: World) -> int:
    return world.database.query(
        "SELECT count(*)::int AS n FROM pg_stat_activity WHERE usename = %s AND application_name = %s",
        world.writer,
        APPLICATION_NAME,
    )[0]["n"]


# A fault that lasts is noticed by time-outs of eight seconds: at the COMMIT, where it matters most, unless told to.
CASES = [(phase, fault) for phase in PHASES for fault in FAULTS if DEEP or phase == "COMMIT" or fault not in LASTING]


@pytest.mark.parametrize(("phase", "fault"), CASES, ids=[" ".join(case) for case in CASES])
@pytest.mark.parametrize("verb", VERBS)
async def test_a_fault_of_the_network(
    world: World, verb: str, phase: str, fault: str, record_property: Callable[[str, object], None]
) -> None:
    tasks_before = asyncio.all_tasks()
    baseline = {FLAG: (False, 0, frozenset[str]())}
    async with Network.to(world.database.server.port) as net:
        store = through(world, net)
        ledger = await store.open(claim(FLAG))
        if verb == "revert":
            await raise_once(store, ledger, lambda: None)
        healed_at_s: float | None = None
        longest_s = 0.0

        def begins() -> None:
            if not net.was_armed:
                net.arm(phase, fault)

        async def attempt() -> bool:
            nonlocal healed_at_s, longest_s
            began_at_s = time.monotonic()
            try:
                # No call may hang, whatever the network does.
                async with asyncio.timeout(DONE_S_MAX):
                    return await VERBS[verb](store, ledger, begins)
            except Problem:
                if healed_at_s is None:
                    net.heal()
                    healed_at_s = time.monotonic()
                return False
            finally:
                longest_s = max(longest_s, time.monotonic() - began_at_s)

        await wait_for_async(attempt, 4 * DONE_S_MAX)
        assert net.struck_at_s is not None, "the fault was never met"
        seconds = time.monotonic() - (healed_at_s if fault in LASTING and healed_at_s else net.struck_at_s)
        net.heal()

        row = world.row(FLAG)
        rows = {FLAG: (row.enabled, int(row.percentage), row.groups)}
        assert row == everyone(50) if verb == "raise" else row.is_off
        audit = world.audit()
        found = violations(audit, baseline, rows)
        record_property(network.FINDING, (verb, phase, fault, len(found), seconds, longest_s))
        assert found == []
        assert [entry["kind"] for entry in audit] == (["Raise"] if verb == "raise" else ["Raise", "Lower"])
        assert seconds < DONE_S_MAX
        wait_for(lambda: connections(world) <= 4, DONE_S_MAX)
        await store.close()
    wait_for(lambda: connections(world) == 0, DONE_S_MAX)
    await wait_for_async(lambda: asyncio.all_tasks() <= tasks_before, DONE_S_MAX)
