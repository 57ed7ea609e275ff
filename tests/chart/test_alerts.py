"""The PrometheusRule: promtool plays every alert through, each has a runbook, and every metric in it exists."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from feature_rollout.sandbox.prometheus import prometheus_binaries
from support.helm import Helm
from support.telemetry import known_names, used_names

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).with_name("alerts.test.yaml")


@pytest.fixture
def spec(helm: Helm) -> Any:
    rendered = helm.template({"metrics": {"rules": {"render": "Always"}}})
    (rule,) = [obj for obj in rendered if obj["kind"] == "PrometheusRule"]
    return rule["spec"]


def alerts(spec: Any) -> list[dict[str, Any]]:
    return [rule for group in spec["groups"] for rule in group["rules"]]


def test_promtool_plays_every_alert_through(spec: Any, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(spec))
    shutil.copy(CASES, tmp_path)
    promtool = prometheus_binaries(build_missing=False).promtool
    for argv in (["check", "rules", "rules.yaml"], ["test", "rules", CASES.name]):
        done = subprocess.run([promtool, *argv], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    expected = [one for case in yaml.safe_load(CASES.read_text())["tests"] for one in case["alert_rule_test"]]
    assert {one["alertname"] for one in expected if one["exp_alerts"]} == {alert["alert"] for alert in alerts(spec)}
    assert {one["alertname"] for one in expected if not one["exp_alerts"]} == {alert["alert"] for alert in alerts(spec)}


def test_every_alert_has_a_runbook_and_every_runbook_an_alert(spec: Any) -> None:
    named = {ROOT / alert["annotations"]["runbook_url"] for alert in alerts(spec)}
    assert named == set((ROOT / "docs" / "runbooks").glob("*.md"))
    for alert in alerts(spec):
        page = ROOT / alert["annotations"]["runbook_url"]
        assert page.read_text().startswith(f"# {alert['alert']}\n")


def test_every_metric_in_an_alert_or_a_runbook_exists(spec: Any) -> None:
    texts = [alert["expr"] for alert in alerts(spec)]
    texts += [page.read_text() for page in (ROOT / "docs" / "runbooks").glob("*.md")]
    assert used_names(texts)
    assert used_names(texts) <= known_names()
