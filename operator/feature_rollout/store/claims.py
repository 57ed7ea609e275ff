"""Opening a ledger row: who may go on with it, from where, and under which epoch."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from feature_rollout.core.state import Latch, Ledger
from feature_rollout.ports import Claim, Problem
from feature_rollout.postgres import Connection
from feature_rollout.store import actions, ledger, ownership
from feature_rollout.store.config import TableMapping

ADOPTION_PENDING: Final = "AdoptionPending"
ADOPTION_REQUIRED: Final = "AdoptionRequired"
LEDGER_MISSING: Final = "LedgerMissing"
RELEASED: Final = "Released"


async def open_ledger(connection: Connection, table: TableMapping, claim: Claim) -> Ledger:
    """Make or take over the row of a claim, own its flags, and take the next epoch; raises Problem."""
    inserted, locked = await ledger.insert(connection, claim), await ledger.lock(connection, claim.key)
    owned = await ownership.lock(connection, table, claim.flags)
    created, found = await inserted.fetchone() is not None, await ledger.found(locked)
    if found is None:
        raise Problem(LEDGER_MISSING, "the ledger row was removed while it was opened", stalled=False)
    claimed = await ownership.claimable(owned, claim.key, claim.spec_hash)
    is_adopted = not created and await _is_adopted(connection, found, claim)
    begun = found.ledger if created else _continued(found, claim, claimed.latch, is_adopted=is_adopted)
    if created or begun.uid != found.ledger.uid:
        await ledger.drop_evidence(connection, claim.key)
    if created:
        begun = replace(begun, latch=claimed.latch)
    # Above what every flag remembers: the epochs of committed raises never go down, for any flag.
    opened = replace(begun, epoch=max(found.ledger.epoch, claimed.epoch) + 1)
    await ledger.reopen(connection, opened, claim)
    await ledger.keep_plan(connection, claim)
    await ownership.claim(connection, table, claim.flags, opened)
    return opened


async def _is_adopted(connection: Connection, found: ledger.Found, claim: Claim) -> bool:
    """Whether a person's word is needed to go on with the row, and there; it counts once."""
    now = found.ledger
    is_needed = not found.closed and found.silent and now.uid != claim.uid and now.plan_hash != claim.plan_hash
    if not is_needed or claim.adopt is None:
        return False
    return await actions.record(connection, claim.key, [claim.adopt])


def _continued(found: ledger.Found, claim: Claim, latch: Latch | None, *, is_adopted: bool) -> Ledger:
    """The row that is there, as this claim goes on with it; raises Problem when it may not."""
    now = found.ledger
    if found.closed:
        if now.uid == claim.uid:
            message = "its flags were released; delete this rollout and create it again to start afresh"
            raise Problem(RELEASED, message)
        return Ledger(
            key=now.key,
            uid=claim.uid,
            epoch=now.epoch,
            sequence=now.sequence + 1,
            spec_hash=claim.spec_hash,
            plan_hash=claim.plan_hash,
            latch=latch,
        )
    if now.uid == claim.uid:
        return now
    if now.plan_hash != claim.plan_hash and not is_adopted and (found.silent or claim.adopt is None):
        message = (
            "a rollout of the same name, with another plan, was never ended in this database; "
            "create a RolloutAction of type Adopt, or release its flags with `featurerollout store release`"
        )
        raise Problem(ADOPTION_REQUIRED, message)
    if not found.silent:
        message = (
            "an earlier object of the same name may still be served elsewhere; "
            f"it is taken over when nothing was heard of it for {ledger.SILENT_AFTER_S} s"
        )
        raise Problem(ADOPTION_PENDING, message, stalled=False)
    return replace(now, uid=claim.uid, people=now.people.adopted())
