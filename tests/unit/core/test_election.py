"""Who leads, by tables: what was seen and written so far, the time, and what follows.

| subject | cases |
|---|---|
| roles | nothing seen, another's Lease fresh and stale, given up, one's own in time and late, taken from one |
| steps | none, another's before and after its end, one's own, given up, a replica without a database, asked for |
| what is written | created, renewed, taken, given up, asked for |
| times | a call, a wait, a Lease that runs out, clocks of different speed |
| two replicas | any order of tries, pauses, lost answers and asking for it: never two that lead |
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_rollout.core.election import REQUEST_S_MAX, Lease, Role, Standing, Step, Times

TIMES = Times(lease_s=15, renew_deadline_s=10.0, retry_s=2.0)
NEW = Standing("a", TIMES, same_since_s=0.0)
ANOTHERS = Lease("b", 15, renewed_at="1")
GIVEN_UP = Lease("", 1, renewed_at="2")


def mine(at_s: float) -> Standing:
    return NEW.wrote(NEW.wanted("now"), at_s)


def asked_for(lease: Lease | None, by: str) -> Lease:
    assert lease is not None
    return replace(lease, wanted_by=by)


@pytest.mark.parametrize(
    ("standing", "now_s", "role"),
    [
        (NEW, 9.9, Role.STANDBY),
        (NEW, 10.0, Role.UNLED),
        (NEW.saw(ANOTHERS, 5.0), 14.9, Role.STANDBY),
        (NEW.saw(ANOTHERS, 5.0), 15.0, Role.UNLED),
        (NEW.saw(ANOTHERS, 5.0).saw(ANOTHERS, 9.0), 15.0, Role.UNLED),
        (NEW.saw(ANOTHERS, 5.0).saw(replace(ANOTHERS, renewed_at="2"), 9.0), 15.0, Role.STANDBY),
        (NEW.saw(GIVEN_UP, 5.0), 5.0, Role.UNLED),
        (NEW.saw(asked_for(GIVEN_UP, "a"), 5.0), 5.0, Role.UNLED),
        # It is handed over, and then it is not.
        (NEW.saw(asked_for(GIVEN_UP, "b"), 5.0), 10.9, Role.STANDBY),
        (NEW.saw(asked_for(GIVEN_UP, "b"), 5.0), 11.0, Role.UNLED),
        (mine(3.0), 12.9, Role.LEADING),
        (mine(3.0), 13.0, Role.UNLED),
        (mine(3.0).saw(ANOTHERS, 20.0), 20.0, Role.STANDBY),
        (mine(3.0).saw(None, 4.0), 4.0, Role.STANDBY),
        # It may have been written, and nobody has said so: that is not leading.
        (NEW.saw(Lease("a", 15, renewed_at="3"), 5.0), 5.0, Role.STANDBY),
    ],
)
def test_roles(standing: Standing, now_s: float, role: Role) -> None:
    assert standing.role(now_s) is role


@pytest.mark.parametrize(
    ("standing", "now_s", "step"),
    [
        (NEW, 0.0, Step.WRITE),
        (NEW.saw(ANOTHERS, 5.0), 19.9, Step.LOOK),
        (NEW.saw(ANOTHERS, 5.0), 20.0, Step.WRITE),
        (NEW.saw(replace(ANOTHERS, duration_s=60), 5.0), 64.9, Step.LOOK),
        (NEW.saw(GIVEN_UP, 5.0), 5.0, Step.WRITE),
        (NEW.saw(Lease("a", 15), 5.0), 5.0, Step.WRITE),
        (mine(3.0), 5.0, Step.WRITE),
        (mine(3.0), 60.0, Step.WRITE),
        (mine(3.0).works(False, 4.0), 8.9, Step.WRITE),
        (mine(3.0).works(False, 4.0), 9.0, Step.YIELD),
        (mine(3.0).works(False, 4.0).works(False, 8.0), 9.0, Step.YIELD),
        (mine(3.0).works(False, 4.0).works(True, 8.0).works(False, 8.5), 9.0, Step.WRITE),
        (NEW.saw(GIVEN_UP, 5.0).works(False, 4.0), 19.9, Step.LOOK),
        (NEW.saw(GIVEN_UP, 5.0).works(False, 4.0), 20.0, Step.WRITE),
        (NEW.saw(ANOTHERS, 5.0).works(False, 20.0), 20.0, Step.LOOK),
        (mine(3.0).saw(asked_for(mine(3.0).lease, "b"), 5.0), 5.0, Step.YIELD),
        (mine(3.0).saw(asked_for(mine(3.0).lease, "a"), 5.0), 5.0, Step.WRITE),
        # For whom it was given up takes it at once, the others when that one does not come.
        (NEW.saw(asked_for(GIVEN_UP, "a"), 5.0), 5.0, Step.WRITE),
        (NEW.saw(asked_for(GIVEN_UP, "b"), 5.0), 10.9, Step.LOOK),
        (NEW.saw(asked_for(GIVEN_UP, "b"), 5.0), 11.0, Step.WRITE),
        # It is asked for, and its holder is dead: that it was asked for is no sign of life.
        (NEW.saw(ANOTHERS, 5.0).saw(asked_for(ANOTHERS, "c"), 9.0), 20.0, Step.WRITE),
    ],
)
def test_steps(standing: Standing, now_s: float, step: Step) -> None:
    assert standing.step(now_s) is step


def test_a_lease_is_made_where_there_is_none() -> None:
    assert NEW.wanted("now") == Lease("a", 15, acquired_at="now", renewed_at="now", transitions=0)


def test_a_renewal_changes_its_time_alone() -> None:
    assert mine(1.0).wanted("later") == Lease("a", 15, acquired_at="now", renewed_at="later", transitions=0)


def test_a_lease_that_is_taken_counts_a_transition_and_keeps_what_others_wrote() -> None:
    theirs = replace(ANOTHERS, transitions=4, source={"metadata": {"labels": {"a": "b"}}})
    taken = NEW.saw(theirs, 5.0).wanted("now")
    assert taken == Lease("a", 15, acquired_at="now", renewed_at="now", transitions=5)
    assert taken.source == theirs.source


def test_a_lease_that_is_given_up_has_no_holder_and_nobody_leads() -> None:
    leading = mine(1.0)
    released = leading.wanted("later", released=True)
    assert released == Lease("", 1, acquired_at="later", renewed_at="later", transitions=0)
    without = leading.wrote(released, 2.0)
    assert without.role(2.0) is Role.UNLED
    assert not without.saw(leading.lease, 3.0).holds, "an old answer does not give it back"
    assert NEW.saw(released, 3.0).wanted("now").transitions == 1
    assert NEW.wanted("now", released=True) == replace(released, acquired_at="now", renewed_at="now")


def test_what_others_wrote_into_a_lease_is_kept_when_it_is_given_up() -> None:
    theirs = replace(ANOTHERS, transitions=4, source={"metadata": {"labels": {"a": "b"}}})
    released = NEW.saw(theirs, 5.0).wanted("now", released=True)
    assert (released.holder, released.transitions, released.source) == ("", 4, theirs.source)


def test_a_leader_counts_from_when_it_began_its_last_write() -> None:
    leading = mine(3.0)
    assert (leading.same_since_s, leading.role(12.9), leading.turns_in_s(12.0)) == (3.0, Role.LEADING, 1.0)
    labelled = leading.saw(replace(leading.wanted("now"), duration_s=16), 9.0)
    assert (labelled.role(12.9), labelled.turns_in_s(12.0)) == (Role.LEADING, 1.0)


def test_since_when_it_could_not_work() -> None:
    unfit = mine(3.0).works(False, 4.0)
    assert unfit.unfit_since_s == 4.0
    assert unfit.works(False, 8.0) is unfit
    assert unfit.works(True, 9.0) == mine(3.0)


def test_a_lease_is_asked_for_given_up_and_taken() -> None:
    asking = NEW.saw(ANOTHERS, 5.0).asking()
    assert (asking, asking.wanted_by) == (ANOTHERS, "a"), "its holder and its times stay"
    holder = Standing("b", TIMES, 0.0).wrote(asking, 1.0)
    released = holder.wanted("later", released=True)
    assert (released.holder, released.wanted_by) == ("", "a")
    assert NEW.saw(released, 6.0).wanted("now").wanted_by == ""


def test_whoever_holds_it_says_how_many_shards_there_are() -> None:
    three, two = replace(NEW, shards=3), Standing("b", TIMES, 0.0, shards=2)
    made = three.wanted("now")
    assert made.shards == 3
    assert three.wrote(made, 0.0).wanted("later", released=True).shards == 3, "until another has it"
    assert two.saw(made, 1.0).asking().shards == 3
    assert two.saw(made, 1.0).wanted("now").shards == 2


@pytest.mark.parametrize(
    ("standing", "now_s", "seconds"),
    [
        (NEW, 100.0, REQUEST_S_MAX),
        (mine(3.0), 5.0, REQUEST_S_MAX),
        (mine(3.0), 12.5, 0.5),
        (mine(3.0), 13.0, REQUEST_S_MAX),
    ],
)
def test_a_call_takes_no_longer_than_the_deadline_allows(standing: Standing, now_s: float, seconds: float) -> None:
    assert standing.request_s(now_s) == seconds


@pytest.mark.parametrize(
    ("standing", "now_s", "random", "seconds"),
    [
        (NEW.saw(ANOTHERS, 5.0), 6.0, 0.0, 2.0),
        (NEW.saw(ANOTHERS, 5.0), 6.0, 0.5, 2.2),
        (NEW.saw(ANOTHERS, 5.0), 19.5, 0.5, 0.5),
        # It could not be taken just now: not at once again.
        (NEW.saw(ANOTHERS, 5.0), 20.0, 0.0, 2.0),
        (mine(3.0), 12.0, 0.0, 2.0),
    ],
)
def test_waits(standing: Standing, now_s: float, random: float, seconds: float) -> None:
    assert standing.wait_s(now_s, random) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("standing", "now_s", "seconds"),
    [(NEW, 4.0, 6.0), (NEW.saw(ANOTHERS, 5.0), 6.0, 9.0), (mine(3.0), 12.0, 1.0), (mine(3.0), 14.0, None)],
)
def test_a_role_turns_by_itself(standing: Standing, now_s: float, seconds: float | None) -> None:
    assert standing.turns_in_s(now_s) == seconds
    if seconds is not None:
        assert standing.role(now_s + seconds) is Role.UNLED


class Server:
    """The Lease as the API server has it, and the optimistic lock."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.version = 0


class Replica:
    """A replica with a clock of its own, whose steps take time and whose answers may be lost."""

    def __init__(self, name: str, server: Server, ahead_s: float) -> None:
        self.server = server
        self.ahead_s = ahead_s
        self.standing = Standing(name, TIMES, same_since_s=ahead_s)
        self.version = 0

    def tries(self, now_s: float, took_s: float, *, heard: bool) -> None:
        """A look or a write, whose answer comes `took_s` later."""
        begun_s, at_s = now_s + self.ahead_s, now_s + self.ahead_s + took_s
        if not self.standing.holds or self.version != self.server.version:
            self.standing, self.version = self.standing.saw(self.server.lease, at_s), self.server.version
        step = self.standing.step(begun_s)
        if step is Step.LOOK:
            return
        wanted = self.standing.wanted(str(now_s), released=step is Step.YIELD)
        if step is Step.YIELD:
            self.standing = self.standing.resigned()
        self.server.lease, self.server.version = wanted, self.server.version + 1
        if heard:
            self.standing, self.version = self.standing.wrote(wanted, begun_s), self.server.version

    def asks(self) -> None:
        """Ask for it as it was last seen, if that is how it is still."""
        lease = self.standing.lease
        if lease is not None and lease.holder and not self.standing.holds and self.version == self.server.version:
            self.server.lease, self.server.version = self.standing.asking(), self.server.version + 1


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 2]), st.floats(0.0, 20.0), st.floats(0.0, 2.0), st.booleans(), st.booleans()),
        max_size=60,
    )
)
@settings(max_examples=300, deadline=None)
def test_there_are_never_two_that_lead(tries: list[tuple[int, float, float, bool, bool]]) -> None:
    server, now_s = Server(), 0.0
    replicas = [Replica(name, server, ahead_s) for name, ahead_s in (("a", 0.0), ("b", 1000.0), ("c", -50.0))]
    for who, pause_s, took_s, heard, asks in tries:
        now_s += pause_s
        replicas[who].tries(now_s, took_s, heard=heard)
        if asks:
            replicas[who].asks()
        now_s += took_s
        leading = [r for r in replicas if r.standing.role(now_s + r.ahead_s) is Role.LEADING]
        assert len(leading) <= 1
