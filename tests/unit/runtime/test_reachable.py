"""An outage of the API server is one line in the log at its begin and one at its end."""

import logging

import pytest

from feature_rollout.runtime.reachable import PATIENCE_S, Reachable


class Time:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time() -> Time:
    return Time()


def test_it_is_said_once_that_it_is_away_and_once_that_it_is_back(time: Time, caplog: pytest.LogCaptureFixture) -> None:
    reachable = Reachable(time)
    reachable.answered(200)
    for _ in range(20):
        reachable.failed("ClientConnectorError")
        time.now_s += 1.0
    reachable.answered(503)
    reachable.answered(200)
    reachable.answered(200)
    assert [record.message for record in caplog.records] == [
        "the API server does not answer (ClientConnectorError); guards go on with what is known",
        "the API server answers again, after 20 s",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_errors_with_answers_in_between_are_no_outage(time: Time, caplog: pytest.LogCaptureFixture) -> None:
    reachable = Reachable(time)
    for _ in range(20):
        reachable.answered(429)
        time.now_s += PATIENCE_S / 2
        reachable.answered(200)
    assert caplog.records == []
