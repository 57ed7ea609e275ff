"""Each panel of both dashboards shows something: Prometheus scrapes a real operator, and is asked what they ask."""

import json
import math
import urllib.parse
import urllib.request
from collections.abc import Mapping

from feature_rollout.sandbox.prometheus import PrometheusServer, scrape
from support.dashboards import DASHBOARDS, documented, filled, load, queries
from support.manifests import ROLLOUT, SECONDS, A, disable, metric, rollout, row, stage, store
from support.operatorprocess import Operator
from support.receiver import SECRET
from support.waiting import wait_for
from support.world import World

TEN = (True, 10, frozenset())
SLOW = {"metric": "seconds", "above": "9", "persist": {"failures": 3, "of": 5}}
# Nobody listens there, so that there is something in the outbox.
NOBODY = "http://127.0.0.1:9/"


def values_of(prometheus: PrometheusServer, query: str) -> list[float]:
    """The values of an instant query; none are those that are no numbers."""
    asked = urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(f"{prometheus.url}/api/v1/query?{asked}", timeout=10) as answer:
        found = json.load(answer)["data"]["result"]
    return [value for sample in found if not math.isnan(value := float(sample["value"][1]))]


def empty(prometheus: PrometheusServer, values: Mapping[str, str]) -> list[str]:
    """The queries that no line comes of."""
    return [
        f"{name}: {title}: {query}"
        for name, path in DASHBOARDS.items()
        for title, query in queries(load(path))
        if not values_of(prometheus, filled(query, values))
    ]


def test_each_panel_shows_something(world: World, idle_operator: Operator) -> None:
    idle_operator.start(webhook_url=NOBODY, webhook_secret=SECRET)
    matrix = [disable(), row("Low", {"type": "Hold"}, clause=SLOW)]
    metrics = [metric(), metric("seconds", SECONDS, "Gauge")]
    values = {"namespace": world.namespace, "rollout": ROLLOUT, "metric": "error-rate", "__rate_interval": "30s"}
    of = f'{{rollout_namespace="{world.namespace}",rollout="{ROLLOUT}"'
    with PrometheusServer(scrape("operator", idle_operator.port, interval_s=0.5)) as prometheus:

        def number(query: str) -> float:
            return next(iter(values_of(prometheus, query)), math.nan)

        world.apply(store(), rollout(stages=[stage("ten", 10, "1h")], rows=matrix, metrics=metrics))
        world.wait_row(A, TEN)
        shown = {
            whose: f'featurerollout_flag_percentage{of},flag="{A}",exposure="{whose}"}}'
            for whose in ("desired", "applied", "observed")
        }
        wait_for(lambda: [number(query) for query in shown.values()] == [10.0] * 3, 30.0, "the exposure")
        assert number(f'featurerollout_metric_blind_seconds{of},metric="error-rate"}}') == 0.0
        assert number(f'featurerollout_guard_limit{of},metric="error-rate"}}') == 0.01
        world.traffic.failed = 0.3
        world.wait_row(A, (False, 10, frozenset()))
        wait_for(lambda: [number(query) for query in shown.values()] == [10.0, 0.0, 0.0], 30.0, "the revert")
        ratio = f'featurerollout_guard_evidence{of},metric="error-rate"}} / featurerollout_guard_evidence_limit'
        assert number(ratio) >= 1.0
        wait_for(lambda: not empty(prometheus, values), 60.0, lambda: "\n".join(empty(prometheus, values)))
        asked = [values_of(prometheus, query) for query in documented()]
        # Nothing is blind, and nobody has changed a row.
        assert [bool(found) for found in asked] == [False, True, False, True, True]
        world.delete("FeatureRollout", ROLLOUT)
        gone = f'count({{__name__=~"featurerollout_.*",rollout="{ROLLOUT}"}}) or vector(0)'
        wait_for(lambda: number(gone) == 0.0, 60.0, "the end of its series")
