"""The API server answers, and not what was asked: a storm of 429, 500 and 503, or watches that end at once, with a 410
or without. Guards go on meanwhile.

Reverts come in time; status and Events follow, once each. Requests meanwhile are few, and when all is told
there are no more writes.
"""

import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from feature_rollout.demo import stage as demo
from support import storm as storms
from support.manifests import A
from support.storm import Storm
from support.story import HALF, START_BOUND_S, STORE_BOUND_S, Story
from support.waiting import wait_for

LEASE = {"lease_duration_seconds": "6", "lease_renew_deadline_seconds": "4", "lease_retry_seconds": "0.5"}
# Watches of six kinds, the Lease twice a second, a status, an Event: a loop without a pause makes thousands.
REQUESTS_PER_S_MAX = 40.0


@pytest.fixture
def storm(story: Story, tmp_path: Path) -> Iterator[tuple[Storm, Callable[..., object]]]:
    world = story.world
    with storms.before(world.cluster, tmp_path) as (storm, call):
        kubeconfig = world.cluster.service_account_kubeconfig(world.namespace, demo.SERVICE_ACCOUNT)
        story.operator._kubeconfig = storm.kubeconfig(kubeconfig, tmp_path)
        yield storm, call
        story.operator.kill()


def rests(story: Story, storm: Storm) -> None:
    """Nothing is written any more but the Lease, however many looks are made."""

    def is_still() -> bool:
        before = storm.writes
        story.operator.wait_looks(10)
        return storm.writes == before

    wait_for(is_still, START_BOUND_S, "an end of the writes")


def spoilt(story: Story, weather: Storm, call: Callable[..., object]) -> None:
    """Watches that end at once are begun again, and not without a pause."""
    for how in (storms.EXPIRED, storms.ENDING):
        call(weather.spoils, how)
        begun_s = time.monotonic()
        wait_for(lambda how=how: weather.watches == how, START_BOUND_S, how)
        story.operator.wait_looks(4, verdict="Pass")
        requests, seconds = weather.refused.total() + weather.passed.total(), time.monotonic() - begun_s
        story.note(f"{how}: requests a second", requests / seconds)
        assert 0 < weather.refused.total() <= requests < REQUESTS_PER_S_MAX * seconds, how
        assert weather.writes == 0
    call(weather.ends)


@pytest.mark.parametrize("lease", [False, True], ids=["alone", "with a Lease"])
def test_a_storm_of_refusals(story: Story, storm: tuple[Storm, Callable[..., object]], lease: bool) -> None:
    weather, call = storm
    settings = {"lease_name": "feature-rollout-operator", "lease_namespace": story.world.namespace, **LEASE}
    story.begin()
    story.operator.start(**settings if lease else {})
    story.wait_half()
    if not lease:
        spoilt(story, weather, call)
    begun_s = time.monotonic()
    call(weather.breaks, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE)
    if lease:
        wait_for(lambda: story.operator.count("featurerollout_leader") == 0.0, START_BOUND_S, "the loss of the Lease")
    else:
        story.operator.wait_looks(8, verdict="Pass")
    story.harm()
    wait_for(lambda: story.world.row(A) != HALF, STORE_BOUND_S, "the revert")
    story.operator.wait_looks(5)
    refused, seconds = weather.refused.total(), time.monotonic() - begun_s
    story.note(f"API server refuses, {'with' if lease else 'without'} a Lease: requests a second", refused / seconds)
    assert 0 < refused < REQUESTS_PER_S_MAX * seconds
    call(weather.ends)
    story.wait_reverted(START_BOUND_S)
    story.world.soon(lambda: "FlagsDisabled" in story.world.reasons(), START_BOUND_S)
    if not lease:
        rests(story, weather)
    assert [e.get("series") for e in story.world.events() if e["reason"] == "FlagsDisabled"] == [None]
    story.tell(f"API server refuses, {'with' if lease else 'without'} a Lease", STORE_BOUND_S)
