"""The command line without a cluster: help, exit codes, and what `status` and `explain` say of an object."""

import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from feature_rollout import __version__
from feature_rollout.cli import VERBS, cluster, exits, explain, main, status


def rollout(**status_fields: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "shop", "name": "new-checkout", "generation": 3},
        "status": {"observedGeneration": 3, **status_fields},
    }


def condition(kind: str, value: str, reason: str = "Baking", message: str = "Stage canary bakes.") -> dict[str, str]:
    return {"type": kind, "status": value, "reason": reason, "message": message}


def rendered(table: Any) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123 - closed with the process
    with console.file:
        console.print(table)
        return console.export_text()


def test_help_names_every_verb_and_imports_none_of_them() -> None:
    code = "import sys; sys.argv = ['featurerollout', '--help']; from feature_rollout.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "print([m for m in ('kubernetes', 'psycopg', 'kopf', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(verb in done.stdout for verb in VERBS)
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    answer = CliRunner().invoke(main, [verb, "--help"])
    assert answer.exit_code == 0
    assert "Usage:" in answer.output


def test_an_unknown_verb_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["frobnicate"]).exit_code == 2


def test_version() -> None:
    assert CliRunner().invoke(main, ["version"]).output == f"{__version__}\n"


def test_bucket_prints_the_pinned_bucket() -> None:
    assert CliRunner().invoke(main, ["bucket", "notifications_new_bell_ui", "user-1"]).output == "578\n"


def test_store_install_prints_sql_or_wants_a_connection_string() -> None:
    assert "CREATE SCHEMA" in CliRunner().invoke(main, ["store", "install", "--print"]).output
    without_uris = dict.fromkeys(("FEATUREROLLOUT_OWNER_URI", "FEATUREROLLOUT_DATABASE_URI"))
    assert CliRunner().invoke(main, ["store", "install"], env=without_uris).exit_code == 2


def test_no_cluster_is_an_error_with_a_reason(tmp_path: Any) -> None:
    answer = CliRunner().invoke(main, ["status", "--kubeconfig", str(tmp_path / "none"), "-n", "shop"])
    assert answer.exit_code == exits.ERROR
    assert answer.output.startswith("error: no way to the API server: there is no kubeconfig")


def test_a_kubeconfig_that_is_none_is_named(tmp_path: Any) -> None:
    file = tmp_path / "config"
    file.write_text("kind: Config\n")
    answer = CliRunner().invoke(main, ["status", "--kubeconfig", str(file), "-n", "shop"])
    assert answer.exit_code == exits.ERROR
    assert f"the kubeconfig {file} cannot be used" in answer.output


@pytest.mark.parametrize(
    ("stalled", "code"), [("True", exits.DEGRADED), ("False", 0)], ids=["a stalled rollout is 3", "else 0"]
)
def test_exit_code(stalled: str, code: int) -> None:
    assert cluster.exit_code([rollout(conditions=[condition("Stalled", stalled)])]) == code


SENTENCES = {
    "one that no operator has seen": (
        {
            "metadata": {"namespace": "shop", "name": "new-checkout", "generation": 1},
            "status": {"observedGeneration": -1},
        },
        "shop/new-checkout was not seen by an operator yet: is one running that watches its namespace?",
    ),
    "one that bakes": (
        rollout(phase="Baking", conditions=[condition("Reconciling", "False")]),
        "shop/new-checkout is Baking: Stage canary bakes.",
    ),
    "one whose newest edit was not looked at": (
        rollout(phase="Baking", observedGeneration=2, conditions=[condition("Reconciling", "False")]),
        "shop/new-checkout is Baking: Stage canary bakes. (Generation 3 was not looked at yet.)",
    ),
}


@pytest.mark.parametrize(("given", "sentence"), SENTENCES.values(), ids=SENTENCES.keys())
def test_the_sentence_of_explain(given: dict[str, Any], sentence: str) -> None:
    assert explain.sentence(given) == sentence


def test_explain_tells_stage_next_step_revert_and_fields_without_effect() -> None:
    given = rollout(
        stage={"name": "canary", "index": 1, "of": 3, "since": "2026-01-05T09:00:00Z"},
        summary={"exposure": "off"},
        next={"action": "Hold", "waitingFor": ["a Retry"]},
        rollback={
            "severity": "High",
            "metric": "error-rate",
            "value": "3%",
            "limit": "1%",
            "action": "DisableFlags",
            "respondedIn": "95s",
            "respondWithin": "15m",
        },
        conditions=[condition("FieldsInEffect", "False", message="spec.contacts (nobody is notified)")],
    )
    text = "\n".join(explain.details(given))
    for piece in ("canary (1 of 3)", "off", "waits for a Retry", "error-rate was 3%, limit 1%", "15m", "spec.contacts"):
        assert piece in text


def test_explain_tells_whose_roll_back_it_was() -> None:
    order = {"action": "DisableFlags", "to": "Off", "requestedBy": "alice", "reason": "users complain"}
    assert 'DisableFlags (to Off) by alice: "users complain"' in "\n".join(explain.details(rollout(rollback=order)))


def test_the_table_of_guards_shows_evidence_as_a_number_to_compare_with_20() -> None:
    metrics = [
        {"name": "error-rate", "verdict": "Fail", "value": "3%", "limit": "error-rate above 1%", "evidence": 3.0},
        {"name": "p95", "verdict": "Error", "message": "timeout after 10s"},
    ]
    text = rendered(explain.guards(metrics))
    assert "20.1" in text
    assert "timeout after 10s" in text


def test_the_table_of_guards_shows_what_a_limit_comes_to_and_which_test_judges_it() -> None:
    relative = {
        "name": "e",
        "value": "3%",
        "control": "1%",
        "limit": "e increase 5% against Control",
        "limitInForce": "1.05%",
        "test": "two-sample",
    }
    absolute = {"name": "f", "value": "3%", "limit": "f above 1%", "limitInForce": "1%", "test": "one-sample"}
    table = explain.guards([relative, absolute])
    cells = [list(column.cells) for column in table.columns]
    assert cells[2] == ["3% (control 1%)", "3%"]
    assert cells[3] == ["e increase 5% against Control (now 1.05%)", "f above 1%"]
    assert cells[4] == ["two-sample", "one-sample"]


def test_the_status_table_shows_what_kubectl_get_shows_and_wide_says_why() -> None:
    given = rollout(
        phase="Baking",
        summary={"stage": "1/3 canary", "exposure": "5%", "health": "Healthy"},
        conditions=[condition("Ready", "True", "Baking", "fine")],
    )
    narrow, wide = rendered(status.table([given], wide=False)), rendered(status.table([given], wide=True))
    assert all(piece in narrow for piece in ("new-checkout", "1/3 canary", "5%", "Healthy", "True"))
    assert "fine" not in narrow
    assert "fine" in wide


@pytest.mark.parametrize("verb", [["kill"], ["store", "list"]])
def test_the_help_names_every_way_to_give_the_connection_string(verb: list[str]) -> None:
    shown = CliRunner().invoke(main, [*verb, "--help"]).output
    ways = ("--database-uri-env", "--uri-file", "FEATUREROLLOUT_DATABASE_URI", "FEATUREROLLOUT_WRITER_URI")
    assert [way for way in ways if way not in shown] == []
