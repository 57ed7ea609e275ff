"""gitops/kustomize: what Kustomize renames is found again by what refers to it."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import references
import yaml
from click.testing import CliRunner

from feature_rollout.cli import main
from feature_rollout.sandbox import toolchain

ROOT = Path(__file__).parents[3]
SECRET, SCRIPTS = "supabase-db", "notification-migrations"


def built(folder: Path, **overlay: Any) -> list[dict[str, Any]]:
    """The guide's manifests with other names, and with a Secret and a ConfigMap that have their hashes in theirs."""
    shutil.copytree(ROOT / "examples" / "notifications", folder, dirs_exist_ok=True)
    whole = {
        "resources": [path.name for path in folder.glob("*.yaml")],
        "namePrefix": "team-",
        "secretGenerator": [{"name": SECRET, "namespace": "notifications", "literals": ["writer-uri=x"]}],
        "configMapGenerator": [{"name": SCRIPTS, "namespace": "notifications", "literals": ["a.sql=SELECT 1"]}],
        **overlay,
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(whole))
    argv = [str(toolchain.kubectl()), "kustomize", str(folder)]
    text = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout
    return list(yaml.safe_load_all(text))


def errors(folder: Path, objects: list[dict[str, Any]]) -> str:
    file = folder / "built.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    linted = CliRunner().invoke(main, ["lint", str(file)])
    return "" if linted.exit_code == 0 else linted.output


def test_what_is_renamed_is_found_again(tmp_path: Path) -> None:
    objects = built(tmp_path, components=[os.path.relpath(ROOT / "gitops" / "kustomize", tmp_path)])
    assert errors(tmp_path, objects) == ""
    names = {obj["metadata"]["name"] for obj in objects}
    assert all(name.startswith("team-") for name in names)
    (secret,) = [name for name in names if name.startswith(f"team-{SECRET}-")]
    (scripts,) = [name for name in names if name.startswith(f"team-{SCRIPTS}-")]
    text = yaml.safe_dump_all(obj for obj in objects if obj["kind"] not in {"Secret", "ConfigMap"})
    assert text.count(f"name: {secret}\n") == 3
    assert text.count(f"name: {scripts}\n") == 4
    assert not [name for name in (SECRET, SCRIPTS) if f"name: {name}\n" in text]


def test_without_the_component_nothing_is_found(tmp_path: Path) -> None:
    assert "spec.storeRef" in errors(tmp_path, built(tmp_path))


def test_a_reference_that_kustomize_was_not_told_of_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(references.TARGETS, "storeRef/name")
    with pytest.raises(ValueError, match="FeatureRollout spec/storeRef/name names a kind"):
        references.name_references()
