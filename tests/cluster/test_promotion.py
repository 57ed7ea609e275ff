"""examples/promotion, which docs/gitops.md explains: what Kustomize makes of it, and whether it is accepted."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from feature_rollout.cli import main
from feature_rollout.sandbox.cluster import Cluster
from support import lua

ROOT = Path(__file__).parents[2]
PROMOTION = ROOT / "examples" / "promotion"
PAGE = ROOT / "docs" / "gitops.md"
Object = dict[str, Any]


def build(cluster: Cluster, folder: Path) -> dict[tuple[str, str], Object]:
    """What `kubectl kustomize` makes of a folder, by kind and name."""
    built = yaml.safe_load_all(cluster.kubectl("kustomize", folder).stdout)
    return {(obj["kind"], obj["metadata"]["name"]): obj for obj in built}


def plan(objects: dict[tuple[str, str], Object]) -> Object:
    return dict(objects["FeatureRollout", "new-checkout"]["spec"])


@pytest.mark.usefixtures("crds_installed")
@pytest.mark.parametrize("environment", ["staging", "production"])
def test_an_environment_is_accepted(control_plane: Cluster, environment: str, tmp_path: Path) -> None:
    folder = PROMOTION / "environments" / environment
    objects = build(control_plane, folder)
    (namespace,) = {obj["metadata"]["namespace"] for obj in objects.values()}
    (tmp_path / "built.yaml").write_text(yaml.safe_dump_all(objects.values()))
    linted = CliRunner().invoke(main, ["lint", str(tmp_path)])
    assert (linted.exit_code, "0 errors, 0 warnings, 0 notes" in linted.output) == (0, True), linted.output
    control_plane.kubectl(
        "apply", "-f", "-", input=f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}}}}}"
    )
    applied = control_plane.kubectl("apply", "--server-side", "--dry-run=server", "-k", folder)
    assert applied.stdout.count("serverside-applied (server dry run)") == len(objects) == 3


def test_environments_differ_in_times_and_consent_only(control_plane: Cluster) -> None:
    specs = [
        plan(build(control_plane, PROMOTION / "environments" / name)) for name in ("base", "staging", "production")
    ]
    assert "approval" in specs[2]["stages"][0]
    for spec in specs:
        spec.pop("calendar", None)
        for stage in spec["stages"]:
            for field in ("bake", "onNoTraffic", "approval"):
                stage.pop(field, None)
    assert specs[0] == specs[1] == specs[2]


def test_argo_cd_applies_staging_in_an_earlier_wave(control_plane: Cluster) -> None:
    (root,) = build(control_plane, PROMOTION / "argocd").values()
    waves: dict[str, int] = {}
    for (_, name), app in build(control_plane, ROOT / root["spec"]["source"]["path"]).items():
        waves[name] = int(app["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"])
        namespace = app["spec"]["destination"]["namespace"]
        built = build(control_plane, ROOT / app["spec"]["source"]["path"])
        assert {obj["metadata"]["namespace"] for obj in built.values()} == {namespace}
    assert waves == {"shop-staging": 1, "shop-production": 2}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, {"status": "Progressing", "message": ""}),
        ({"sync": {"status": "OutOfSync"}}, {"status": "Progressing", "message": ""}),
        ({"health": {"status": "Healthy"}}, {"status": "Healthy", "message": ""}),
        ({"health": {"status": "Degraded", "message": "why"}}, {"status": "Degraded", "message": "why"}),
    ],
)
def test_argo_cd_knows_how_healthy_an_application_is(status: Any, expected: Object) -> None:
    config = yaml.safe_load((PROMOTION / "argocd" / "argocd-cm.yaml").read_text())["data"]
    app = {"metadata": {"generation": 1}, **({} if status is None else {"status": status})}
    assert lua.run(config["resource.customizations.health.argoproj.io_Application"], app) == expected


def test_flux_applies_production_when_staging_is_completed(control_plane: Cluster, tmp_path: Path) -> None:
    built = build(control_plane, PROMOTION / "flux")
    staging, production = (built["Kustomization", name]["spec"] for name in ("shop-staging", "shop-production"))
    assert production["dependsOn"] == [{"name": "shop-staging"}]
    assert "Completed" in staging["healthCheckExprs"][0]["current"]
    assert "Completed" not in production["healthCheckExprs"][0]["current"]
    for spec in (staging, production):
        assert spec["wait"]
        overlay = {"resources": [os.path.relpath(ROOT / spec["path"], tmp_path)], "patches": spec.get("patches", [])}
        (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        assert not [stage for stage in plan(build(control_plane, tmp_path))["stages"] if "approval" in stage]


def test_what_the_page_names_is_there() -> None:
    page = PAGE.read_text()
    named = set(re.findall(r"\b(?:gitops|examples)/[\w./-]+\w", page))
    assert named >= {"gitops/argocd/argocd-cm.yaml", "gitops/argocd/values.yaml", "gitops/flux", "examples/promotion"}
    assert not [path for path in named if not (ROOT / path).exists()]
    (overlay,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert yaml.safe_load(overlay) == yaml.safe_load((PROMOTION / "flux" / "kustomization.yaml").read_text())
    for command in re.findall(r"^featurerollout (.*)$", page, re.MULTILINE):
        verb = command.split()[0]
        assert CliRunner().invoke(main, [verb, "--help"]).exit_code == 0
