"""The two dashboards for Grafana: made where they are wanted, and Prometheus understands each query in them.

That each panel shows something is seen on a real operator: `tests/e2e/test_dashboards.py`.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from feature_rollout.sandbox.prometheus import prometheus_binaries
from support.dashboards import DASHBOARDS, documented, filled, load, queries
from support.helm import RELEASE, RELEASE_NAMESPACE, Helm
from support.telemetry import known_names, used_names

ROOT = Path(__file__).parents[2]
WIDTH = 24


def config_maps(helm: Helm, **dashboards: Any) -> dict[str, Any]:
    rendered = helm.template({"metrics": {"dashboards": dashboards}})
    return {obj["metadata"]["name"]: obj for obj in rendered if obj["kind"] == "ConfigMap"}


def test_they_are_config_maps_that_a_sidecar_finds(helm: Helm) -> None:
    assert config_maps(helm) == {}
    made = config_maps(helm, create=True, labels={"grafana": "yes"}, annotations={"folder": "Rollouts"})
    assert set(made) == {f"{RELEASE}-dashboard-{name}" for name in DASHBOARDS}
    for name, path in DASHBOARDS.items():
        obj = made[f"{RELEASE}-dashboard-{name}"]
        assert obj["metadata"]["namespace"] == RELEASE_NAMESPACE
        assert obj["metadata"]["labels"]["grafana"] == "yes"
        assert obj["metadata"]["annotations"] == {"folder": "Rollouts"}
        assert {key: json.loads(text) for key, text in obj["data"].items()} == {
            f"feature-rollout-{name}.json": load(path)
        }
    labels = config_maps(helm, create=True)[f"{RELEASE}-dashboard-fleet"]["metadata"]["labels"]
    assert labels["grafana_dashboard"] == "1"


def test_each_metric_of_the_documentation_exists() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    assert used_names([page]) <= known_names()
    assert used_names(documented())


@pytest.mark.parametrize("name", DASHBOARDS)
def test_prometheus_understands_each_query_and_each_metric_exists(name: str, tmp_path: Path) -> None:
    dashboard = load(DASHBOARDS[name])
    variables = [variable["name"] for variable in dashboard["templating"]["list"]]
    values = dict.fromkeys(variables, "x") | {"__rate_interval": "1m"}
    exprs = [filled(query, values) for _, query in queries(dashboard)]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(exprs)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": name, "rules": rules}]}))
    promtool = prometheus_binaries(build_missing=False).promtool
    argv = [promtool, "check", "rules", "--lint=none", tmp_path / "rules.yaml"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = [
        variable["query"]["query"] for variable in dashboard["templating"]["list"] if variable["name"] != "datasource"
    ]
    assert used_names(exprs)
    assert used_names([*exprs, *asked]) <= known_names()


@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_panel_lies_on_another(name: str) -> None:
    panels = load(DASHBOARDS[name])["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < WIDTH
        taken |= cells
