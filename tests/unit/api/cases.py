"""What is refused, and by which words: one table for the models and for the real API server.

Each case changes one thing in a manifest that is accepted. `words` are in the refusal of
both; where the API server has words of its own for something that its schema says, they
are in `server`.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import yaml

ROLLOUT = """
apiVersion: featurerollout.dev/v1alpha1
kind: FeatureRollout
metadata: {name: checkout}
spec:
  storeRef: {name: shop}
  metrics:
  - name: errors
    interval: 30s
    template: {type: Ratio, sql: {query: "SELECT 1 AS events, 2 AS units"}}
  - name: latency
    template: {type: Gauge, unit: s, sql: {query: "SELECT 1 AS value"}}
  matrix:
    rows:
    - severity: High
      when: [{metric: errors, above: "1%"}]
      respondWithin: 15m
      action: {type: DisableFlags}
    - severity: Low
      when: [{metric: latency, above: "0.8"}]
      respondWithin: 4h
      action: {type: Hold}
  stages:
  - name: canary
    flags: [{names: [new_cart, new_search], percentage: 5}]
    bake: 1d
    gates: [{metric: errors, atMost: "0.1%", minUnits: 1000}]
  - name: everyone
    flags: [{names: [new_cart], percentage: 100}, {names: [new_search], groups: [staff]}]
"""
MATRIX = """
apiVersion: featurerollout.dev/v1alpha1
kind: RollbackMatrix
metadata: {name: guards}
spec:
  rows:
  - severity: High
    when: [{metric: errors, above: "1%"}]
    respondWithin: 15m
    action: {type: DisableFlags}
"""
TEMPLATE = """
apiVersion: featurerollout.dev/v1alpha1
kind: MetricTemplate
metadata: {name: errors}
spec: {type: Ratio, sql: {query: "SELECT 1 AS events, 2 AS units"}}
"""
PROVIDER = """
apiVersion: featurerollout.dev/v1alpha1
kind: MetricProvider
metadata: {name: cases}
spec: {prometheus: {address: "http://prometheus:9090"}, allowedNamespaces: ["*"]}
"""
STORE = """
apiVersion: featurerollout.dev/v1alpha1
kind: FlagStore
metadata: {name: shop}
spec: {postgres: {writer: {secretKeyRef: {name: db, key: uri}}}}
"""
ACTION = f"""
apiVersion: featurerollout.dev/v1alpha1
kind: RolloutAction
metadata: {{name: approve}}
spec: {{rolloutRef: {{name: checkout}}, type: Approve, stage: canary, planHash: "v1:{"0" * 64}"}}
"""
VALID = {
    "FeatureRollout": ROLLOUT,
    "RollbackMatrix": MATRIX,
    "MetricTemplate": TEMPLATE,
    "MetricProvider": PROVIDER,
    "FlagStore": STORE,
    "RolloutAction": ACTION,
}
SCRIPT = {"configMapKeyRef": {"name": "scripts", "key": "back.sql"}}
REF = {"name": "other"}
KEY = {"name": "ca", "key": "ca.crt"}
Change = Callable[[dict[str, Any]], object]


def manifest(kind: str) -> dict[str, Any]:
    """A manifest that is accepted."""
    loaded: dict[str, Any] = yaml.safe_load(VALID[kind])
    return loaded


@dataclass(frozen=True)
class Case:
    """`change` gets the spec and changes it in place."""

    sentence: str
    change: Change
    words: str
    kind: str = "FeatureRollout"
    server: str = ""

    def manifest(self) -> dict[str, Any]:
        changed = manifest(self.kind)
        self.change(changed["spec"])
        return changed

    def __str__(self) -> str:
        return self.sentence


def put(path: str, value: object) -> Change:
    """Set the value at a path such as `stages.0.bake`."""
    *way, last = path.split(".")

    def change(spec: Any) -> None:
        for step in way:
            spec = spec[int(step) if step.isdigit() else step]
        spec[int(last) if last.isdigit() else last] = deepcopy(value)

    return change


def drop(path: str) -> Change:
    *way, last = path.split(".")

    def change(spec: Any) -> None:
        for step in way:
            spec = spec[int(step) if step.isdigit() else step]
        del spec[last]

    return change


def both(*changes: Change) -> Change:
    def change(spec: dict[str, Any]) -> None:
        for one in changes:
            one(spec)

    return change


STAGES = [
    Case(
        "a stage that waits for its own rollout",
        put("stages.1.after", [{"rollout": "search", "stage": "all"}, {"rollout": "checkout", "stage": "canary"}]),
        "the stage everyone waits for its own rollout: name another in after",
    ),
    Case(
        "a stage that waits for a rollout's what",
        put("stages.1.after", [{"rollout": "search"}]),
        "stages[1].after[0].stage: is required",
        server="stages[1].after[0].stage: Required value",
    ),
    Case("a stage named twice", put("stages.1.name", "canary"), 'two stages are called "canary": give each its own'),
    Case(
        "a flag twice in an entry",
        put("stages.0.flags.0.names", ["new_cart", "new_cart"]),
        '"new_cart" is there twice: write it once',
        server='stages[0].flags[0].names[1]: Duplicate value: "new_cart"',
    ),
    Case(
        "a flag twice over two entries of a stage",
        put("stages.1.flags.1.names", ["new_search", "new_cart"]),
        'the stage everyone names the flag "new_cart" twice: name it in one entry',
    ),
    Case(
        "a percentage of 101",
        put("stages.0.flags.0.percentage", 101),
        "less than or equal to 100",
    ),
    Case(
        "a percentage below 0",
        put("stages.0.flags.0.percentage", -1),
        "greater than or equal to 0",
    ),
    Case(
        "a percentage as a text",
        put("stages.0.flags.0.percentage", "10"),
        "should be a valid number",
        server="must be of type number",
    ),
    Case(
        "an entry that says nothing",
        drop("stages.0.flags.0.percentage"),
        "nothing is said about new_cart: write percentage or groups or both",
    ),
    Case("an entry without flags", put("stages.0.flags.0.names", []), "at least 1 item"),
    Case(
        "an empty group",
        put("stages.1.flags.1.groups", [""]),
        '"" is not a group: name one, or write groups: [] for everyone',
    ),
    Case("a blank group", put("stages.1.flags.1.groups", ["staff "]), '"staff " is not a group'),
    Case(
        "a doubled group",
        put("stages.1.flags.1.groups", ["staff", "staff"]),
        '"staff" is there twice: write it once',
        server='groups[1]: Duplicate value: "staff"',
    ),
    Case("an empty flag", put("stages.0.flags.0.names", [""]), '"" is not a flag'),
    Case(
        "a stage's name in capitals",
        put("stages.0.name", "Ten_Percent"),
        '"Ten_Percent" is not a name: use lower-case letters, digits and hyphens, such as ten-percent',
    ),
    Case(
        "a duration that is none",
        put("stages.0.bake", "soon"),
        '"soon" is not a duration: write numbers with ms, s, m, h, d or w, such as 30s, 1h30m or 2d',
    ),
    Case("a duration without a unit", put("stages.0.bake", "30"), '"30" is not a duration'),
    Case("a negative duration", put("stages.0.bake", "-1h"), '"-1h" is not a duration'),
    Case("a duration of many years", put("stages.0.bake", "99999999h"), '"99999999h" is not a duration'),
    Case("an interval of nothing", put("metrics.0.interval", "0s"), '"0s" is not an interval: write at least 1s'),
    Case("an interval of milliseconds", put("metrics.0.interval", "500ms"), '"500ms" is not an interval'),
    Case(
        "a gate without a limit",
        drop("stages.0.gates.0.atMost"),
        "the gate on errors needs one limit: write exactly one of atMost and atLeast",
    ),
    Case("a gate with two limits", put("stages.0.gates.0.atLeast", "1%"), "write exactly one of atMost and atLeast"),
    Case(
        "a gate on an unbound metric",
        put("stages.0.gates", [{"metric": "errors", "atMost": "1%"}, {"metric": "apdex", "atLeast": "90%"}]),
        'the stage canary has a gate on "apdex", which spec.metrics does not bind: bind it or correct the name',
    ),
    Case(
        "a gate's limit that is none",
        put("stages.0.gates.0.atMost", "1 percent"),
        '"1 percent" is not a limit: write a percentage up to 100% such as "0.1%" for a Ratio, '
        'or a decimal number such as "0.8" for a Gauge',
    ),
    Case("a limit of 101 percent", put("stages.0.gates.0.atMost", "101%"), '"101%" is not a limit'),
    Case(
        "a plain number on a Ratio's gate",
        put("stages.0.gates.0.atMost", "0.001"),
        'a limit on errors does not fit its type Ratio: a Ratio\'s limit is a percentage such as "0.1%"',
    ),
    Case(
        "a check that asks nothing",
        put("stages.0.checks", [{"name": "look"}]),
        "the check look has none of sql, job and confirm: write exactly one",
    ),
    Case(
        "a check that asks twice",
        put("preflight", [{"name": "look", "sql": "SELECT true", "confirm": "Is it?"}]),
        "the check look has several of sql, job and confirm: write exactly one",
    ),
    Case(
        "an expectation without SQL",
        put("preflight", [{"name": "look", "confirm": "Is it?", "expect": "Rows"}]),
        "the check look has expect without sql",
    ),
    Case(
        "a check named twice",
        put("preflight", [{"name": "look", "confirm": "Is it?"}, {"name": "look", "confirm": "Is it?"}]),
        '"look" is there twice',
        server='preflight[1]: Duplicate value: {"name":"look"}',
    ),
    Case("an approval by nobody", put("stages.0.approval", {"required": 0}), "greater than or equal to 1"),
    Case(
        "no stages",
        put("stages", []),
        "at least 1 item",
    ),
]
MATRICES = [
    Case(
        "a severity twice",
        put("matrix.rows.1.severity", "High"),
        "severity High has two rows: write one row, with the clauses of both",
    ),
    Case("a row without clauses", put("matrix.rows.0.when", []), "at least 1 item"),
    Case(
        "a row without a deadline",
        drop("matrix.rows.0.respondWithin"),
        "matrix.rows[0].respondWithin: is required",
        server="matrix.rows[0].respondWithin: Required value",
    ),
    Case(
        "a severity that is none",
        put("matrix.rows.0.severity", "Severe"),
        "'Severe' is refused: input should be 'Critical', 'High', 'Medium' or 'Low'",
        server='Unsupported value: "Severe": supported values: "Critical", "High", "Medium", "Low"',
    ),
    Case("a deadline that is none", put("matrix.rows.0.respondWithin", "soon"), '"soon" is not a duration'),
    Case(
        "a clause on an unbound metric",
        put("matrix.rows.0.when", [{"metric": "errors", "above": "1%"}, {"metric": "apdex", "below": "80%"}]),
        'the row High has a clause on "apdex", which spec.metrics does not bind: bind it, or write optional: true',
    ),
    Case(
        "a clause without a word",
        drop("matrix.rows.0.when.0.above"),
        "the clause on errors has none of above, below, increase, decrease and alert: write exactly one",
    ),
    Case(
        "a clause with two words",
        put("matrix.rows.0.when.0.below", "0.5%"),
        "the clause on errors has several of above, below, increase, decrease and alert: write exactly one",
    ),
    Case(
        "a clause on nothing",
        drop("matrix.rows.0.when.0.metric"),
        "a clause names either a metric or a pushed alert, this one names neither: write exactly one of the two",
    ),
    Case(
        "a clause on a metric and an alert",
        put("matrix.rows.0.when.0", {"metric": "errors", "alert": "Burning"}),
        "this one names errors and an alert: write exactly one of the two",
    ),
    Case("a guard's limit that is none", put("matrix.rows.0.when.0.above", "abc%"), '"abc%" is not a limit'),
    Case(
        "a guard at 0%",
        put("matrix.rows.0.when.0.above", "0.0%"),
        '"0.0%" leaves no room for a breach or for health',
    ),
    Case("a guard at 100%", put("matrix.rows.0.when.0.above", "100%"), '"100%" leaves no room'),
    Case(
        "a plain number on a Ratio's guard",
        put("matrix.rows.0.when.0.above", "0.01"),
        "a limit on errors does not fit its type Ratio",
    ),
    Case(
        "a percentage on a Gauge's guard",
        put("matrix.rows.1.when.0.above", "80%"),
        "a limit on latency does not fit its type Gauge: a Ratio's limit is a percentage",
    ),
    Case(
        "an increase without a baseline",
        put("matrix.rows.0.when.0", {"metric": "errors", "increase": "50%"}),
        "the clause on errors needs baseline exactly when it has increase or decrease: write baseline: {type: Before",
    ),
    Case(
        "a baseline without an increase",
        put("matrix.rows.0.when.0.baseline", {"type": "Control"}),
        "the clause on errors needs baseline exactly when",
    ),
    Case(
        "an increase that is none",
        put("matrix.rows.0.when.0", {"metric": "errors", "increase": "half", "baseline": {"type": "Control"}}),
        '"half" is not a relative change: write a percentage such as "50%"',
    ),
    Case(
        "persist on a percentage",
        put("matrix.rows.0.when.0.persist", {"failures": 3, "of": 5}),
        "the clause on errors cannot have persist: it is for a Gauge",
    ),
    Case(
        "more failures than looks",
        put("matrix.rows.1.when.0.persist", {"failures": 6, "of": 5}),
        "failures is more than of, which can never be",
    ),
    Case(
        "ReducePercentage without an aim",
        put("matrix.rows.0.action", {"type": "ReducePercentage"}),
        "to and percentage do not fit ReducePercentage: ReducePercentage has exactly one of them",
    ),
    Case(
        "ReducePercentage with two aims",
        put("matrix.rows.0.action", {"type": "ReducePercentage", "to": "Baseline", "percentage": 5}),
        "to and percentage do not fit ReducePercentage",
    ),
    Case(
        "DisableFlags to a percentage",
        put("matrix.rows.0.action", {"type": "DisableFlags", "percentage": 5}),
        "to and percentage do not fit DisableFlags",
    ),
    Case(
        "RestrictToGroups without groups",
        put("matrix.rows.0.action", {"type": "RestrictToGroups"}),
        "groups does not fit RestrictToGroups: RestrictToGroups names at least one group",
    ),
    Case(
        "RestrictToGroups to nobody",
        put("matrix.rows.0.action", {"type": "RestrictToGroups", "groups": []}),
        "at least 1 item",
    ),
    Case(
        "Hold with groups",
        put("matrix.rows.0.action", {"type": "Hold", "groups": ["staff"]}),
        "groups does not fit Hold",
    ),
    Case(
        "RollBackDatabase without consent to lose data",
        put("matrix.rows.0.action", {"type": "RollBackDatabase", "script": SCRIPT, "sha256": "0" * 64}),
        "RollBackDatabase needs script, sha256 and acknowledgeDataLoss: true",
    ),
    Case(
        "RollBackDatabase with a hash that is none",
        put(
            "matrix.rows.0.action",
            {"type": "RollBackDatabase", "script": SCRIPT, "sha256": "abc", "acknowledgeDataLoss": True},
        ),
        '"abc" is not a SHA-256: write the 64 hexadecimal digits that sha256sum prints',
    ),
    Case(
        "DisableFlags with a script",
        put("matrix.rows.0.action", {"type": "DisableFlags", "script": SCRIPT}),
        "the script of DisableFlags is wrong",
    ),
    Case(
        "a budget that is none",
        put("alphaBudget", "five"),
        '"five" is not a chance to take: write a percentage of more than 0% and at most 50%, such as "5%"',
        kind="RollbackMatrix",
    ),
    Case("a budget of nothing", put("alphaBudget", "0%"), '"0%" is not a chance to take', kind="RollbackMatrix"),
    Case("a budget of 50.5%", put("alphaBudget", "50.5%"), '"50.5%" is not a chance', kind="RollbackMatrix"),
]
REFERENCES = [
    Case(
        "neither matrix nor matrixRef",
        drop("matrix"),
        "a rollout needs one matrix and this one has none: write exactly one of matrix and matrixRef",
    ),
    Case(
        "both matrix and matrixRef",
        put("matrixRef", REF),
        "this one has two: write exactly one of matrix and matrixRef",
    ),
    Case(
        "neither template nor templateRef",
        drop("metrics.0.template"),
        "the metric errors needs one template: write exactly one of template and templateRef",
    ),
    Case("both template and templateRef", put("metrics.0.templateRef", REF), "the metric errors needs one template"),
    Case(
        "a metric bound twice",
        both(put("metrics.1.name", "errors"), put("matrix.rows.1.when.0", {"metric": "errors", "above": "2%"})),
        '"errors" is there twice',
        server='metrics[1]: Duplicate value: {"name":"errors"}',
    ),
    Case(
        "holdAt a stage that is none",
        put("holdAt", "half"),
        'holdAt names "half", which is not a stage: name one of spec.stages',
    ),
    Case(
        "a reference to another namespace",
        put("storeRef.namespace", "prod"),
        "spec.storeRef.namespace: is not a field of this kind",
        server='unknown field "spec.storeRef.namespace"',
    ),
    Case(
        "an unknown field deep inside",
        put("stages.0.flags.0.percent", 5),
        "spec.stages[0].flags[0].percent: is not a field of this kind: correct its name or remove it",
        server='unknown field "spec.stages[0].flags[0].percent"',
    ),
    Case("a name that no object can have", put("storeRef.name", "Shop"), '"Shop" is not the name of an object'),
    Case(
        "a time zone that is none", put("calendar", {"timeZone": "Europe Berlin"}), '"Europe Berlin" is not a time zone'
    ),
    Case(
        "a window at a time that is none",
        put("calendar", {"windows": [{"days": ["Mon"], "from": "9", "to": "16:00"}]}),
        '"9" is not a time of day: write hours and minutes, such as "09:00"',
    ),
    Case(
        "a freeze on a date that is none",
        put("calendar", {"freezes": [{"from": "Xmas", "to": "2027-01-03"}]}),
        '"Xmas" is not a date: write year, month and day, such as "2026-12-20"',
    ),
    Case(
        "a freeze on a 45th",
        put("calendar", {"freezes": [{"from": "2026-12-45", "to": "2027-01-03"}]}),
        '"2026-12-45" is not a date',
    ),
]
OTHERS = [
    Case(
        "a template without a source",
        drop("sql"),
        "a metric has none of sql and prometheus: write exactly one",
        kind="MetricTemplate",
    ),
    Case(
        "a template with two sources",
        put("prometheus", {"providerRef": REF, "events": "a", "units": "b"}),
        "a metric has both of sql and prometheus: write exactly one",
        kind="MetricTemplate",
    ),
    Case(
        "a Ratio with a value",
        both(drop("sql"), put("prometheus", {"providerRef": REF, "value": "a"})),
        "the queries do not fit a Ratio: a Ratio needs events and units, a Gauge needs value and may have units",
        kind="MetricTemplate",
    ),
    Case(
        "half a control arm",
        both(drop("sql"), put("prometheus", {"providerRef": REF, "events": "a", "units": "b", "controlEvents": "c"})),
        "the control arm of a Ratio does not fit: a Ratio has both of controlEvents and controlUnits, or none",
        kind="MetricTemplate",
    ),
    Case(
        "a Gauge with a control arm",
        both(
            put("type", "Gauge"),
            drop("sql"),
            put("prometheus", {"providerRef": REF, "value": "a", "controlEvents": "c", "controlUnits": "d"}),
        ),
        "the control arm of a Gauge does not fit",
        kind="MetricTemplate",
    ),
    Case(
        "a Ratio with a Gauge's control arm",
        both(
            drop("sql"),
            put("prometheus", {"providerRef": REF, "events": "a", "units": "b", "controlValue": "c"}),
        ),
        "the control arm of a Ratio does not fit",
        kind="MetricTemplate",
    ),
    Case(
        "a sample ratio of events",
        put("sampleRatio", True),
        "sampleRatio is of users in two arms: write type: Ratio, counts: Users and a control arm",
        kind="MetricTemplate",
    ),
    Case(
        "a sample ratio without a control arm",
        both(
            put("sampleRatio", True),
            put("counts", "Users"),
            drop("sql"),
            put("prometheus", {"providerRef": REF, "events": "a", "units": "b"}),
        ),
        "sampleRatio is of users in two arms",
        kind="MetricTemplate",
    ),
    Case(
        "an argument that is no identifier",
        put("args", [{"name": "my flag"}]),
        '"my flag" is not an identifier: use letters, digits and _, such as feature_flags',
        kind="MetricTemplate",
    ),
    Case(
        "an address that is none",
        put("prometheus.address", "prometheus:9090"),
        '"prometheus:9090" is not an address: write http:// or https://, a host and perhaps a port and a path',
        kind="MetricProvider",
    ),
    Case(
        "an address with a password",
        put("prometheus.address", "http://me:secret@prometheus:9090"),
        "is not an address",
        kind="MetricProvider",
    ),
    Case(
        "a namespace that is none",
        put("allowedNamespaces", ["Shop"]),
        '"Shop" is not a namespace',
        kind="MetricProvider",
    ),
    Case(
        "a store without a writer",
        drop("postgres.writer"),
        "spec.postgres.writer: is required",
        kind="FlagStore",
        server="spec.postgres.writer: Required value",
    ),
    Case(
        "a key that no Secret can have",
        put("postgres.writer.secretKeyRef.key", "writer uri"),
        '"writer uri" is not a key: use letters, digits, -, _ and .',
        kind="FlagStore",
    ),
    Case(
        "a CA certificate from nowhere",
        put("postgres.caCertificate", {}),
        "certificates come from one place and these from none: write exactly one of secretKeyRef and configMapKeyRef",
        kind="FlagStore",
    ),
    Case(
        "a CA certificate from two places",
        put("postgres.caCertificate", {"secretKeyRef": KEY, "configMapKeyRef": KEY}),
        "certificates come from one place and these from two",
        kind="FlagStore",
    ),
    Case(
        "a column that is no identifier",
        put("table", {"columns": {"name": "na;me"}}),
        '"na;me" is not an identifier',
        kind="FlagStore",
    ),
    Case(
        "an approval without the plan's hash",
        drop("planHash"),
        "Approve needs planHash: copy it from the rollout's status.planHash, as you read it",
        kind="RolloutAction",
    ),
    Case(
        "a hash that is none",
        put("planHash", "v1:123"),
        '"v1:123" is not a plan hash: copy it from status.planHash',
        kind="RolloutAction",
    ),
    Case(
        "an approval of no stage",
        drop("stage"),
        "Approve needs stage: name the stage that may begin",
        kind="RolloutAction",
    ),
    Case(
        "a confirmation of nothing",
        put("type", "Confirm"),
        "check does not fit Confirm: Confirm names the check that is confirmed",
        kind="RolloutAction",
    ),
    Case(
        "a pause to somewhere",
        both(put("type", "Pause"), put("to", "Off")),
        "to does not fit Pause: only RollBack has it",
        kind="RolloutAction",
    ),
]
REFUSALS = [*STAGES, *MATRICES, *REFERENCES, *OTHERS]
