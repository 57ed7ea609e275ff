"""The generated definitions: in step with the models, and nothing in them that the API server would not take."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from feature_rollout.api import policies
from feature_rollout.api.crd import SELECTABLE, crd, files
from feature_rollout.api.kinds import KINDS
from feature_rollout.api.rolloutaction import RolloutActionType
from feature_rollout.cli.crds import command

CRDS = Path(__file__).parents[3] / "crds"
POLICIES = [
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
]
FORBIDDEN = {"$ref", "multipleOf", "anyOf", "oneOf", "allOf", "const", "pattern", "uniqueItems", "title", "nullable"}


def test_the_files_are_in_step_with_the_models() -> None:
    assert CliRunner().invoke(command, ["--check", str(CRDS)]).output == ""


def nodes(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        yield path, node
        for name, value in node.items():
            yield from nodes(value, f"{path}.{name}")


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_is_structural_and_bounded(kind: str) -> None:
    schema = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for path, node in nodes(schema):
        # Under `properties` the keys are names of fields, whatever they are.
        if path.endswith("properties"):
            continue
        assert not node.keys() & FORBIDDEN, path
        assert not any(key.startswith("x-kubernetes-preserve") for key in node), path
        assert node.get("additionalProperties") is not False, path
        if node.get("type") == "array" and ".spec." in path:
            assert "maxItems" in node, f"{path}: CEL's cost needs a bound"
        if node.get("type") == "string" and ".spec." in path:
            bounded = "maxLength" in node or "enum" in node
            assert bounded, f"{path}: CEL's cost needs a bound"


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_described(kind: str) -> None:
    schema = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for path, node in nodes(schema):
        if path.endswith(".properties"):
            for name, field in node.items():
                if (path, name) not in {
                    (".properties", "metadata"),
                    (".properties", "apiVersion"),
                    (".properties", "kind"),
                }:
                    assert field.get("description"), f"{path}.{name}"


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_outside_of_lists_only(kind: str) -> None:
    schema = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert [path for path, node in nodes(schema) if "default" in node and ".items" in path] == []


def test_at_most_eight_fields_are_selectable() -> None:
    assert all(len(paths) <= 8 for paths in SELECTABLE.values())


def test_the_command_prints_all_of_them() -> None:
    printed = list(yaml.safe_load_all(CliRunner().invoke(command, []).output))
    definitions = [item for item in printed if item["kind"] == "CustomResourceDefinition"]
    assert [item["spec"]["names"]["kind"] for item in definitions] == list(KINDS)
    # After the definitions, because the policies are about what they define.
    assert [item["kind"] for item in printed[len(definitions) :]] == POLICIES


def test_the_policy_that_old_clusters_do_not_know_can_be_left_out() -> None:
    printed = yaml.safe_load_all(CliRunner().invoke(command, ["--without-mutating-policy"]).output)
    assert [item["kind"] for item in printed][len(KINDS) :] == POLICIES[:2]


def test_every_type_of_action_needs_a_verb() -> None:
    assert set(policies.VERBS) == set(RolloutActionType)


def test_the_command_writes_and_checks(tmp_path: Path) -> None:
    folder = tmp_path / "crds"
    assert CliRunner().invoke(command, ["--output", str(folder)]).exit_code == 0
    assert {file.name: file.read_text() for file in folder.iterdir()} == files()
    assert CliRunner().invoke(command, ["--check", str(folder)]).exit_code == 0
    changed = folder / "featurerollout.dev_flagstores.yaml"
    changed.write_text(changed.read_text() + "# by hand\n")
    (folder / "old.yaml").write_text("kind: Old\n")
    result = CliRunner().invoke(command, ["--check", str(folder)])
    assert result.exit_code == 1
    assert "featurerollout.dev_flagstores.yaml differs" in result.output
    assert "old.yaml differs" in result.output


def test_to_write_and_to_check_exclude_each_other(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--output", str(tmp_path), "--check", str(tmp_path)])
    assert result.exit_code == 2
