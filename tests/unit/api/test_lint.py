"""`featurerollout lint`.

| what | level | exit code |
|---|---|---|
| the guide's manifests together | notes only | 0 |
| the quickstart by itself | a warning: the provider is an administrator's | 0 |
| what the API server would refuse | error, with file, document, kind, name and path | 1 |
| a reference that no file has; an object twice | error | 1 |
| what the operator would refuse | error | 1 |
| what seldom is meant | warning | 0 |
| what is no YAML | error | 1 |
| no files | usage | 2 |
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from feature_rollout.api.lint import Level, lint
from feature_rollout.api.manifests import Document
from feature_rollout.cli.lint import command
from unit.api.cases import Change, both, drop, manifest, put
from unit.api.test_jobs import text as job_text

EXAMPLES = Path(__file__).parents[3] / "examples"


def run(*files: Path) -> Result:
    return CliRunner().invoke(command, [str(file) for file in files])


def changed(kind: str, *changes: Change, name: str = "") -> dict[str, Any]:
    obj = manifest(kind)
    for change in changes:
        change(obj["spec"])
    if name:
        obj["metadata"]["name"] = name
    return obj


def found(*objects: dict[str, Any], level: Level) -> list[str]:
    documents = [Document(f"f.yaml:{number}", obj) for number, obj in enumerate(objects, start=1)]
    return [finding.text for finding in lint(documents) if finding.level is level]


def promql(events: str) -> dict[str, Any]:
    return {"providerRef": {"name": "p"}, "events": events, "units": "b"}


STORE = manifest("FlagStore")


def test_the_guides_manifests_have_no_error_and_no_warning() -> None:
    result = run(*sorted((EXAMPLES / "notifications").glob("*.yaml")))
    assert result.exit_code == 0
    assert "12 documents: 0 errors, 0 warnings, 5 notes" in result.stderr
    assert ": error:" not in result.stdout
    assert ": warning:" not in result.stdout


def test_the_quickstart_is_right_by_itself() -> None:
    result = run(EXAMPLES / "quickstart.yaml")
    assert result.exit_code == 0
    assert "3 documents: 0 errors, 1 warning, 0 notes" in result.stderr
    assert "there is no MetricProvider prometheus in these files: is it in the cluster?" in result.stdout


def test_an_error_says_where_it_is(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    broken = changed("FeatureRollout", put("stages.0.flags.0.percentage", 101))
    file.write_text(yaml.safe_dump_all([STORE, broken]))
    result = run(file)
    assert result.exit_code == 1
    assert (
        f"{file}:2/FeatureRollout/checkout: error: spec.stages[0].flags[0].percentage: 101 is refused" in result.stdout
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", 'plan.yaml", line 1, column 5'),
        ("a: \x07", 'plan.yaml", position 3'),
        ("- a\n- b\n", "plan.yaml:1: this is a list, where an object should be"),
        ("kind: FeatureRollout\nspec: {a: 1, a: 2}\n", 'the key "a" is there twice: remove one'),
        ("a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
    ],
    ids=["broken", "a bell", "a list", "a key twice", "a tag"],
)
def test_what_is_no_manifest_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    result = run(file)
    assert result.exit_code == 1
    assert words in result.stderr


@pytest.mark.parametrize("text", ["", "---\n---\n", "# nothing\n"])
@pytest.mark.parametrize("output", ["text", "json", "sarif"])
def test_files_without_a_document_were_not_checked(tmp_path: Path, text: str, output: str) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    result = CliRunner().invoke(command, [str(tmp_path / "plan.yaml"), "-o", output])
    assert result.exit_code == 1
    assert "no documents: the files are empty, and nothing was checked" in result.stderr


def test_one_document_is_one(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(STORE))
    assert run(file).stderr == "1 document: 0 errors, 0 warnings, 0 notes\n"


def test_what_a_store_allows_has_no_effect_yet() -> None:
    (note,) = found(changed("FlagStore", put("allow", ["Migrations"])), level=Level.NOTE)
    assert note == "spec.allow: nothing is run as the owner for a rollout in this version"


def test_no_files_is_a_wrong_usage() -> None:
    assert run().exit_code == 2


def test_other_kinds_and_empty_documents_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("---\n---\nkind: Secret\napiVersion: v1\nmetadata: {name: a}\n---\n")
    assert run(file).exit_code == 0


def test_a_list_is_unpacked(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    broken = changed("FlagStore", drop("postgres.writer"))
    file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [broken]}))
    assert "FlagStore/shop: error: spec.postgres.writer: is required" in run(file).stdout


def test_a_date_without_quotes_is_a_text(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    text = yaml.safe_dump_all([STORE, changed("FeatureRollout", put("calendar", {"freezes": "FREEZES"}))])
    file.write_text(text.replace("FREEZES", "[{from: 2026-12-20, to: 2027-01-03}]"))
    assert run(file).exit_code == 0


SHARED = both(drop("matrix"), put("matrixRef", {"name": "guards"}))
ERRORS = [
    (
        "a store that no file has",
        [changed("FeatureRollout")],
        "spec.storeRef: there is no FlagStore shop in namespace default of these files",
    ),
    (
        "a matrix that no file has",
        [STORE, changed("FeatureRollout", SHARED)],
        "spec.matrixRef: there is no RollbackMatrix guards",
    ),
    (
        "a template that no file has",
        [
            STORE,
            changed("FeatureRollout", drop("metrics.0.template"), put("metrics.0.templateRef", {"name": "errors"})),
        ],
        "spec.metrics[0].templateRef: there is no MetricTemplate errors",
    ),
    (
        "a rollout that no file has",
        [manifest("RolloutAction")],
        "spec.rolloutRef: there is no FeatureRollout checkout",
    ),
    (
        "an action on a stage that is none",
        [STORE, manifest("FeatureRollout"), changed("RolloutAction", put("stage", "half"))],
        'spec.stage: "half" is not a stage of checkout: name one of canary, everyone',
    ),
    (
        "an object twice",
        [STORE, STORE],
        "metadata.name: this object is also in f.yaml:1/FlagStore/shop: remove one, or rename it",
    ),
    (
        "a kind that is none of ours",
        [{"apiVersion": "featurerollout.dev/v1alpha1", "kind": "FeatureFlag", "metadata": {"name": "a"}}],
        "kind: 'FeatureFlag' is not one of FeatureRollout, ",
    ),
    (
        "a version that is none of ours",
        [{**STORE, "apiVersion": "featurerollout.dev/v2"}],
        "apiVersion: 'featurerollout.dev/v2' is refused: input should be 'featurerollout.dev/v1alpha1'",
    ),
    (
        "a plan that the operator would refuse",
        [STORE, changed("FeatureRollout", put("matrix.rows.0.when", [{"metric": "latency", "above": "0.8"}]))],
        "spec.matrix.rows[0].when[0]: latency is a Gauge, which cannot be judged within 15m",
    ),
    (
        "a shared matrix that does not fit",
        [STORE, changed("FeatureRollout", SHARED), changed("RollbackMatrix", put("rows.0.when.0.above", "0.5"))],
        'RollbackMatrix/guards spec.rows[0].when[0].above: "0.5" does not fit errors, which is a Ratio',
    ),
    (
        "a placeholder that nothing fills",
        [changed("MetricTemplate", put("sql.query", "SELECT 1 WHERE %(flag)s"))],
        "spec.sql.query: %(flag)s is neither %(window_start)s nor %(window_end)s nor in args: declare it in args",
    ),
    (
        "an argument in PromQL that nobody declares",
        [changed("MetricTemplate", drop("sql"), put("prometheus", promql('sum(x{flag="{{flag}}"}[{{window}}])')))],
        "spec.prometheus.events: {{flag}} is neither {{window}} nor in args: declare it in args",
    ),
    (
        "an argument in PromQL that is no label's value",
        [
            changed(
                "MetricTemplate",
                drop("sql"),
                put("args", [{"name": "job"}]),
                put("prometheus", promql("sum(x{{{job}}}[{{window}}])")),
            )
        ],
        "spec.prometheus.events: {{job}} stands outside of a quoted string: an argument is a label's value",
    ),
    (
        "a provider for others",
        [
            changed("MetricProvider", put("allowedNamespaces", ["shop"]), name="p"),
            changed(
                "MetricTemplate",
                drop("sql"),
                put("prometheus", promql("a")),
            ),
        ],
        "spec.prometheus.providerRef: the MetricProvider p is not for namespace",
    ),
]


@pytest.mark.parametrize(("objects", "words"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_it_is_an_error(objects: list[dict[str, Any]], words: str) -> None:
    errors = found(*objects, level=Level.ERROR)
    assert len(errors) == 1
    assert words in errors[0]


def test_an_object_that_is_refused_is_not_called_missing_as_well() -> None:
    broken = changed("FlagStore", drop("postgres.writer"))
    assert found(broken, changed("FeatureRollout"), level=Level.ERROR) == ["spec.postgres.writer: is required"]


WARNINGS = [
    (
        "looks too seldom for the deadline",
        put("metrics.0.interval", "1m"),
        "spec.matrix.rows[0].respondWithin: 15m is shorter than 30 looks at errors (1800s)",
    ),
    (
        "persist on a Gauge",
        put("matrix.rows.1.when.0.persist", {"failures": 8, "of": 10}),
        "spec.matrix.rows[1].when[0].persist: 8 of 10 looks is a count and no test",
    ),
    (
        "a flag that is lowered",
        put("stages.1.flags.0.percentage", 1),
        "spec.stages[1].flags: new_cart goes from 5 % of everyone down to 1 % of everyone in everyone",
    ),
    ("an empty value", put("stages.0.flags.0.groups", None), "spec.stages[0].flags[0].groups: an empty value is as if"),
]


@pytest.mark.parametrize(("change", "words"), [w[1:] for w in WARNINGS], ids=[w[0] for w in WARNINGS])
def test_it_is_a_warning(change: Change, words: str) -> None:
    # Without the stage that restricts a flag to a group, which is a lowering too.
    plain = put("stages.1.flags.1", {"names": ["new_search"], "percentage": 100})
    objects = (STORE, changed("FeatureRollout", plain, change))
    assert found(*objects, level=Level.ERROR) == []
    warnings = found(*objects, level=Level.WARNING)
    assert len(warnings) == 1
    assert words in warnings[0]


@pytest.mark.parametrize(
    "change",
    [
        put("matrix.rows.0.respondWithin", "0s"),
        put("matrix.rows.0.action", {"type": "Hold"}),
        # Blocks judge it, and a deadline of looks does not.
        both(
            put("metrics.0.interval", "30s"),
            put("metrics.1.interval", "10m"),
            put("matrix.rows.1.action", {"type": "DisableFlags"}),
        ),
    ],
    ids=["no deadline", "a row that only holds", "a Gauge"],
)
def test_seldom_looks_are_no_warning(change: Change) -> None:
    plain = put("stages.1.flags.1", {"names": ["new_search"], "percentage": 100})
    objects = (STORE, changed("FeatureRollout", plain, put("metrics.0.interval", "5m"), change))
    assert found(*objects, level=Level.WARNING) == []


def test_groups_that_change_in_both_directions_are_no_warning() -> None:
    """From all of the staff to a half of everyone: some gain and some lose, as in the guide."""
    stages = [
        {"name": "staff", "flags": [{"names": ["new_cart"], "percentage": 100, "groups": ["staff"]}]},
        {"name": "half", "flags": [{"names": ["new_cart"], "percentage": 50, "groups": []}]},
    ]
    objects = (STORE, changed("FeatureRollout", put("stages", stages)))
    assert found(*objects, level=Level.WARNING) == []


def test_a_folder_stands_for_all_manifests_below_it(tmp_path: Path) -> None:
    below = tmp_path / "team" / "shop"
    below.mkdir(parents=True)
    (tmp_path / "store.yaml").write_text(yaml.safe_dump(manifest("FlagStore")))
    (below / "rollout.yml").write_text(yaml.safe_dump(manifest("FeatureRollout")))
    (below / "notes.txt").write_text("{")
    result = run(tmp_path, tmp_path / "store.yaml")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("2 documents: 0 errors")


def test_a_folder_without_manifests_is_a_mistake(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.exit_code == 2
    assert f"{tmp_path} has no *.yaml and no *.yml" in result.stderr


def config_map(data: object, **metadata: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "jobs", **metadata}, "data": data}


WITH_JOBS = changed(
    "FeatureRollout",
    put("preflight", [{"name": "a", "job": {"configMapKeyRef": {"name": "jobs", "key": "a.yaml"}}}]),
    put("stages.0.checks", [{"name": "b", "job": {"configMapKeyRef": {"name": "jobs", "key": "b.yaml"}}}]),
)


def test_jobs_in_a_config_map_of_the_files_are_read() -> None:
    good = config_map({"a.yaml": job_text(), "b.yaml": job_text()})
    assert found(STORE, WITH_JOBS, good, level=Level.ERROR) == []
    assert not [text for text in found(STORE, WITH_JOBS, good, level=Level.WARNING) if "job" in text]
    bad = config_map({"a.yaml": job_text(kind="Pod")})
    assert found(STORE, WITH_JOBS, bad, level=Level.ERROR) == [
        'spec.preflight[0].job: ConfigMap jobs a.yaml: apiVersion, kind: "batch/v1", "Pod": write batch/v1, Job',
        "spec.stages[0].checks[0].job: ConfigMap jobs b.yaml: no text is under this key: add it or correct the key",
    ]
    assert len(found(STORE, WITH_JOBS, config_map(None), level=Level.ERROR)) == 2
    placed = job_text(metadata={"namespace": "shop"})
    anywhere = config_map({"a.yaml": placed, "b.yaml": placed})
    assert found(STORE, WITH_JOBS, anywhere, level=Level.ERROR) == [], "the rollout's namespace is not known here"


@pytest.mark.parametrize("others", [[], [config_map({}, namespace="other")]])
def test_jobs_elsewhere_are_warned_of(others: list[dict[str, Any]]) -> None:
    assert found(STORE, WITH_JOBS, *others, level=Level.ERROR) == []
    warned = [text for text in found(STORE, WITH_JOBS, *others, level=Level.WARNING) if "job" in text]
    assert warned == [
        f"{path}: there is no ConfigMap jobs in these files: is it in the cluster?"
        for path in ("spec.preflight[0].job", "spec.stages[0].checks[0].job")
    ]


def waiting(name: str, *stages: tuple[str, str]) -> dict[str, Any]:
    """A rollout of stages, each with what it is after, such as `search/all`."""
    rollout = changed("FeatureRollout", name=name)
    flags = [{"names": [name.replace("-", "_")], "percentage": 100}]
    rollout["spec"]["stages"] = [
        {
            "name": stage,
            "flags": flags,
            "after": [dict(zip(("rollout", "stage"), one.split("/"), strict=True)) for one in after.split()],
        }
        for stage, after in stages
    ]
    del rollout["spec"]["metrics"], rollout["spec"]["matrix"]
    rollout["spec"]["matrixRef"] = {"name": "guards"}
    return rollout


class TestOrder:
    def found(self, *rollouts: dict[str, Any], level: Level = Level.ERROR) -> list[str]:
        matrix = changed(
            "RollbackMatrix", put("rows.0.when", [{"metric": "errors", "above": "1%", "optional": True}]), name="guards"
        )
        return found(STORE, matrix, *rollouts, level=level)

    def test_one_after_the_other_is_right(self) -> None:
        rollouts = (
            waiting("checkout", ("ten", ""), ("all", "search/ten")),
            waiting("search", ("ten", ""), ("all", "checkout/ten")),
        )
        assert self.found(*rollouts) == self.found(*rollouts, level=Level.WARNING) == []

    def test_a_cycle_is_told_with_its_way_in_each_of_its_rollouts(self) -> None:
        rollouts = (
            waiting("checkout", ("ten", ""), ("all", "search/all")),
            waiting("search", ("ten", "checkout/all"), ("all", "")),
        )
        first, second = self.found(*rollouts)
        assert first == (
            "spec.stages[1].after: rollouts wait for each other: "
            "checkout/all -> search/all -> search/ten -> checkout/all: take one of these out of its stage's after"
        )
        assert second.startswith(
            "spec.stages[0].after: rollouts wait for each other: search/ten -> checkout/all -> search/all ->"
        )

    def test_a_stage_that_there_is_not_is_an_error(self) -> None:
        rollouts = (waiting("checkout", ("ten", "search/everyone")), waiting("search", ("ten", ""), ("all", "")))
        assert self.found(*rollouts) == [
            'spec.stages[0].after[0].stage: "everyone" is not a stage of search: name one of ten, all'
        ]

    def test_a_rollout_that_is_not_in_the_files_may_be_in_the_cluster(self) -> None:
        assert self.found(waiting("checkout", ("ten", "search/all")), level=Level.WARNING) == [
            "spec.stages[0].after[0].rollout: there is no FeatureRollout search in these files: is it in the cluster?"
        ]

    def test_the_example_is_right(self) -> None:
        result = run(EXAMPLES / "after.yaml")
        assert "4 documents: 0 errors, 0 warnings, 0 notes" in result.stderr
