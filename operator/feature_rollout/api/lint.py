"""What is wrong with a set of manifests, without a server: `featurerollout lint`.

Errors would be refused by the API server or by the operator, warnings would work but not
as somebody may think, notes are fields that this version does not act on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, TypeVar

from feature_rollout.api import order
from feature_rollout.api.base import InvalidObject, Resource
from feature_rollout.api.featurerollout import FeatureRollout, FeatureRolloutSpec
from feature_rollout.api.flagstore import FlagStore
from feature_rollout.api.invalid import InvalidPlan
from feature_rollout.api.jobs import InvalidJob
from feature_rollout.api.jobs import parse as parse_job
from feature_rollout.api.kinds import is_ours, parse
from feature_rollout.api.manifests import Document
from feature_rollout.api.metricprovider import MetricProvider
from feature_rollout.api.metrictemplate import MetricTemplate, MetricTemplateSpec
from feature_rollout.api.resolve import references, resolve
from feature_rollout.api.resolve_metrics import not_allowed, placeholder_problems
from feature_rollout.api.rollbackmatrix import Clause, RollbackMatrix, RollbackMatrixSpec, Row
from feature_rollout.api.rolloutaction import RolloutAction
from feature_rollout.api.values import ConfigMapSource, KeyReference
from feature_rollout.core.evidence import RUN_LOOKS_MIN
from feature_rollout.core.exposure import NONE, Exposure
from feature_rollout.core.plan import MetricType, Plan

R = TypeVar("R", bound=Resource)


class Level(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Check(StrEnum):
    """What was found, as a tool may name it to leave it out."""

    INVALID_OBJECT = "invalid-object"
    INVALID_PLAN = "invalid-plan"
    DUPLICATE_OBJECT = "duplicate-object"
    EMPTY_VALUE = "empty-value"
    MISSING_OBJECT = "missing-object"
    PLACEHOLDER = "placeholder"
    PROVIDER_NOT_ALLOWED = "provider-not-allowed"
    PROVIDER_ELSEWHERE = "provider-elsewhere"
    PERSIST = "persist"
    SHORT_DEADLINE = "short-deadline"
    LOWERING_STAGE = "lowering-stage"
    JOB = "job"
    NO_EFFECT = "no-effect"
    UNKNOWN_STAGE = "unknown-stage"
    ORDER = "order"
    ROLLOUT_ELSEWHERE = "rollout-elsewhere"


DESCRIPTIONS: Mapping[Check, str] = {
    Check.INVALID_OBJECT: "A manifest that the API server would refuse.",
    Check.INVALID_PLAN: "A rollout that cannot be followed with the objects that it names.",
    Check.DUPLICATE_OBJECT: "An object that is in the files twice.",
    Check.EMPTY_VALUE: "A field with nothing behind it, which is as if it were not there.",
    Check.MISSING_OBJECT: "A reference to an object that is not in the files.",
    Check.PLACEHOLDER: "A query with a parameter that nobody fills in, or without one that it needs.",
    Check.PROVIDER_NOT_ALLOWED: "A MetricProvider that the namespace may not use.",
    Check.PROVIDER_ELSEWHERE: "A MetricProvider that is not in the files, and may be in the cluster.",
    Check.PERSIST: "A count of looks where a test would be better.",
    Check.SHORT_DEADLINE: "A deadline that small harm cannot be proved within.",
    Check.LOWERING_STAGE: "A stage that lowers exposure.",
    Check.JOB: "A check's Job that is not in the files, or cannot be made as it is written.",
    Check.NO_EFFECT: "A field that has no effect in this version.",
    Check.UNKNOWN_STAGE: "An action for a stage that the rollout has not.",
    Check.ORDER: "A stage that waits for one that there is not, or rollouts that wait for each other in a circle.",
    Check.ROLLOUT_ELSEWHERE: "A rollout that a stage waits for, which is not in the files, and may be in the cluster.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """`where` is `file:document/kind/name`; `text` begins with the path in the manifest."""

    level: Level
    check: Check
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.level}: {self.text}"


@dataclass(slots=True)
class _Manifests:
    """All objects by kind, namespace and name, each with where it stands."""

    objects: dict[tuple[type[Resource], str, str], tuple[Resource, str]] = field(default_factory=dict)
    # Named by something and there, but refused: no second error for who names it.
    broken: set[tuple[str, str, str]] = field(default_factory=set)
    # The data of ConfigMaps, by namespace and name.
    config_maps: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)

    def get(self, kind: type[R], namespace: str, name: str) -> R | None:
        found = self.objects.get((kind, namespace, name))
        return found[0] if found is not None and isinstance(found[0], kind) else None

    def is_missing(self, kind: type[Resource], namespace: str, name: str) -> bool:
        return (kind, namespace, name) not in self.objects and (kind.__name__, namespace, name) not in self.broken

    def of(self, kind: type[R]) -> Iterator[tuple[R, str]]:
        return ((found, where) for found, where in self.objects.values() if isinstance(found, kind))


def lint(documents: Sequence[Document], *, stores: bool = True) -> list[Finding]:
    """Everything found, in the order of the documents; other groups' objects are left alone.

    `stores` is false where a rollout's FlagStore need not be among the documents.
    """
    manifests, findings = _Manifests(), list[Finding]()
    for document in documents:
        if is_ours(document.manifest):
            findings += _add(manifests, document)
        elif document.manifest.get("kind") == "ConfigMap":
            _add_config_map(manifests, document.manifest)
    for template, where in manifests.of(MetricTemplate):
        findings += _lint_template(manifests, template.spec, template.metadata.namespace, where, "spec")
    for store, where in manifests.of(FlagStore):
        if store.spec.allow:
            text = "spec.allow: nothing is run as the owner for a rollout in this version"
            findings.append(Finding(Level.NOTE, Check.NO_EFFECT, where, text))
    for rollout, where in manifests.of(FeatureRollout):
        findings += _lint_rollout(manifests, rollout, where, stores=stores)
        findings += _lint_order(manifests, rollout, where)
    for action, where in manifests.of(RolloutAction):
        findings += _lint_action(manifests, action, where)
    places = {str(document): index for index, document in enumerate(documents)}
    return sorted(findings, key=lambda finding: places.get(finding.where, 0))


@dataclass(frozen=True, slots=True)
class Resolved:
    """A rollout of the documents with its plan, its store if that is among them, and where it stands."""

    rollout: FeatureRollout
    store: FlagStore | None
    plan: Plan
    where: str


def plans(documents: Sequence[Document]) -> list[Resolved]:
    """Every rollout, resolved; for documents in which `lint` has found no error."""
    manifests = _Manifests()
    for document in documents:
        if is_ours(document.manifest):
            list(_add(manifests, document))
    resolved = []
    for rollout, where in manifests.of(FeatureRollout):
        matrix, templates = _referenced(manifests, rollout)
        store = manifests.get(FlagStore, rollout.metadata.namespace, rollout.spec.store_ref.name)
        plan = resolve(rollout, matrix=matrix, templates=templates, store=store).plan
        resolved.append(Resolved(rollout, store, plan, where))
    return resolved


def _add(manifests: _Manifests, document: Document) -> Iterator[Finding]:
    try:
        parsed = parse(document.manifest)
    except InvalidObject as error:
        metadata = document.manifest.get("metadata")
        if isinstance(metadata, dict):
            name, namespace = str(metadata.get("name")), str(metadata.get("namespace", ""))
            manifests.broken.add((str(document.manifest.get("kind")), namespace, name))
        yield from (
            Finding(Level.ERROR, Check.INVALID_OBJECT, str(document), f"{path}: {message}")
            for path, message in error.problems
        )
        return
    key = (type(parsed), *parsed.key)
    if key in manifests.objects:
        text = f"metadata.name: this object is also in {manifests.objects[key][1]}: remove one, or rename it"
        yield Finding(Level.ERROR, Check.DUPLICATE_OBJECT, str(document), text)
        return
    manifests.objects[key] = (parsed, str(document))
    for path in _nulls(document.manifest.get("spec"), "spec"):
        text = f"{path}: an empty value is as if it were not there: write [] or a value, or remove it"
        yield Finding(Level.WARNING, Check.EMPTY_VALUE, str(document), text)


def _add_config_map(manifests: _Manifests, manifest: Mapping[str, Any]) -> None:
    """Not of our group, so no word on what is wrong in it but what a rollout needs of it."""
    metadata, data = manifest.get("metadata"), manifest.get("data")
    if isinstance(metadata, dict):
        key = str(metadata.get("namespace", "")), str(metadata.get("name"))
        manifests.config_maps[key] = data if isinstance(data, dict) else {}


def _nulls(value: object, path: str) -> Iterator[str]:
    """`groups:` with nothing behind it means no change, and not everyone as somebody may think."""
    if value is None:
        yield path
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _nulls(item, f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nulls(item, f"{path}[{index}]")


def _missing(
    manifests: _Manifests, kind: type[Resource], namespace: str, name: str, *, where: str, path: str
) -> Iterator[Finding]:
    if manifests.is_missing(kind, namespace, name):
        place = f"namespace {namespace or 'default'} of these files"
        yield Finding(
            Level.ERROR,
            Check.MISSING_OBJECT,
            where,
            f"{path}: there is no {kind.__name__} {name} in {place}: add its file or correct the name",
        )


def _lint_template(
    manifests: _Manifests, template: MetricTemplateSpec, namespace: str, where: str, path: str
) -> Iterator[Finding]:
    for _, text in placeholder_problems(template):
        yield Finding(Level.ERROR, Check.PLACEHOLDER, where, f"{path}.{text}")
    if template.prometheus is None:
        return
    provider_name, provider_path = template.prometheus.provider_ref.name, f"{path}.prometheus.providerRef"
    provider = manifests.get(MetricProvider, "", provider_name)
    if provider is not None and not provider.spec.allows(namespace):
        yield Finding(
            Level.ERROR, Check.PROVIDER_NOT_ALLOWED, where, f"{provider_path}: {not_allowed(provider_name, namespace)}"
        )
    elif manifests.is_missing(MetricProvider, "", provider_name):
        # An administrator's file, which teams often do not have.
        text = f"{provider_path}: there is no MetricProvider {provider_name} in these files: is it in the cluster?"
        yield Finding(Level.WARNING, Check.PROVIDER_ELSEWHERE, where, text)


def _lint_rollout(manifests: _Manifests, rollout: FeatureRollout, where: str, *, stores: bool) -> Iterator[Finding]:
    namespace, named = rollout.metadata.namespace, references(rollout)
    missing = list[Finding]()
    if stores:
        missing += _missing(manifests, FlagStore, namespace, named.store, where=where, path="spec.storeRef")
    if named.matrix is not None:
        missing += _missing(manifests, RollbackMatrix, namespace, named.matrix, where=where, path="spec.matrixRef")
    for index, metric in enumerate(rollout.spec.metrics):
        path = f"spec.metrics[{index}]"
        if metric.template_ref is not None:
            name = metric.template_ref.name
            missing += _missing(manifests, MetricTemplate, namespace, name, where=where, path=f"{path}.templateRef")
        if metric.template is not None:
            yield from _lint_template(manifests, metric.template, namespace, where, f"{path}.template")
    yield from missing
    for path, job in _jobs(rollout.spec):
        yield from _lint_job(manifests, job.config_map_key_ref, namespace, where, path)
    matrix, templates = _referenced(manifests, rollout)
    if len(templates) < len(named.templates) or (named.matrix is not None and matrix is None):
        return
    try:
        plan = resolve(rollout, matrix=matrix, templates=templates).plan
    except InvalidPlan as error:
        yield Finding(Level.ERROR, Check.INVALID_PLAN, where, error.message)
        return
    guards = matrix.spec if matrix is not None else rollout.spec.matrix
    assert guards is not None  # noqa: S101 - one of the two, by the model's rules
    matrix_path = f"RollbackMatrix/{named.matrix} spec" if matrix is not None else "spec.matrix"
    found = [*_matrix_warnings(rollout, plan, guards, matrix_path), *_lowered_flags(plan)]
    found += [(Check.NO_EFFECT, f"{notice.path}: {notice.consequence}") for notice in plan.notices]
    for check, text in found:
        yield Finding(Level.NOTE if check is Check.NO_EFFECT else Level.WARNING, check, where, text)


def _jobs(spec: FeatureRolloutSpec) -> Iterator[tuple[str, ConfigMapSource]]:
    """Each check's Job and its path."""
    groups = [("spec.preflight", spec.preflight)]
    groups += [(f"spec.stages[{index}].checks", stage.checks) for index, stage in enumerate(spec.stages)]
    for path, checks in groups:
        yield from ((f"{path}[{i}].job", check.job) for i, check in enumerate(checks) if check.job is not None)


def _lint_job(
    manifests: _Manifests, reference: KeyReference, namespace: str, where: str, path: str
) -> Iterator[Finding]:
    data = manifests.config_maps.get((namespace, reference.name))
    if data is None:
        text = f"{path}: there is no ConfigMap {reference.name} in these files: is it in the cluster?"
        yield Finding(Level.WARNING, Check.JOB, where, text)
        return
    place = f"{path}: ConfigMap {reference.name} {reference.key}"
    given = data.get(reference.key)
    if not isinstance(given, str) or not given:
        yield Finding(Level.ERROR, Check.JOB, where, f"{place}: no text is under this key: add it or correct the key")
        return
    try:
        parse_job(given, namespace)
    except InvalidJob as error:
        yield Finding(Level.ERROR, Check.JOB, where, f"{place}: {error}")


def _referenced(
    manifests: _Manifests, rollout: FeatureRollout
) -> tuple[RollbackMatrix | None, dict[str, MetricTemplate]]:
    """The matrix and the templates that a rollout names, so far as they are there."""
    namespace, named = rollout.metadata.namespace, references(rollout)
    matrix = manifests.get(RollbackMatrix, namespace, named.matrix) if named.matrix is not None else None
    found = {name: manifests.get(MetricTemplate, namespace, name) for name in named.templates}
    return matrix, {name: template for name, template in found.items() if template is not None}


def _matrix_warnings(
    rollout: FeatureRollout, plan: Plan, matrix: RollbackMatrixSpec, path: str
) -> Iterator[tuple[Check, str]]:
    intervals = {metric.name: metric.interval for metric in rollout.spec.metrics}
    for i, row in enumerate(matrix.rows):
        for j, clause in enumerate(row.when):
            where = f"{path}.rows[{i}].when[{j}]"
            if clause.persist is not None:
                yield (
                    Check.PERSIST,
                    (
                        f"{where}.persist: {clause.persist.failures} of {clause.persist.of} looks is a count and no "
                        "test: it reverts healthy rollouts sooner or later; prefer a Ratio, or leave persist out"
                    ),
                )
            if clause.metric in intervals and plan.metrics[clause.metric].type is MetricType.RATIO:
                yield from _deadline_warning(row, clause, intervals[clause.metric].delta, f"{path}.rows[{i}]")


def _deadline_warning(row: Row, clause: Clause, interval: timedelta, path: str) -> Iterator[tuple[Check, str]]:
    """A deadline acts after 30 looks past the limit at the earliest; 0s has none and waits for the evidence."""
    deadline = row.respond_within.delta
    if not row.action.type.lowers or not deadline or clause.persist is not None:
        return
    if RUN_LOOKS_MIN * interval > deadline:
        needed = int((RUN_LOOKS_MIN * interval).total_seconds())
        yield (
            Check.SHORT_DEADLINE,
            (
                f"{path}.respondWithin: {row.respond_within} is shorter than {RUN_LOOKS_MIN} looks at {clause.metric} "
                f"({needed}s): small harm may be answered late; shorten the metric's interval or lengthen the deadline"
            ),
        )


def _lowered_flags(plan: Plan) -> Iterator[tuple[Check, str]]:
    rows = {flag: Exposure(enabled=False, percentage=NONE) for flag in plan.flags}
    for index, stage in enumerate(plan.stages):
        after = stage.applied_to(rows)
        for flag in stage.flags:
            change = f"{flag} goes from {rows[flag]} down to {after[flag]} in {stage.name}"
            if after[flag].is_within(rows[flag]) and not rows[flag].is_within(after[flag]):
                yield (
                    Check.LOWERING_STAGE,
                    (f"spec.stages[{index}].flags: {change}: a stage may lower, but a rollout seldom means to"),
                )
        rows = after


def _lint_order(manifests: _Manifests, rollout: FeatureRollout, where: str) -> Iterator[Finding]:
    for wrong in order.problems(rollout, (one for one, _ in manifests.of(FeatureRollout))):
        level, check = (Level.WARNING, Check.ROLLOUT_ELSEWHERE) if wrong.elsewhere else (Level.ERROR, Check.ORDER)
        yield Finding(level, check, where, f"{wrong.path}: {wrong.text}")


def _lint_action(manifests: _Manifests, action: RolloutAction, where: str) -> Iterator[Finding]:
    namespace, name = action.metadata.namespace, action.spec.rollout_ref.name
    yield from _missing(manifests, FeatureRollout, namespace, name, where=where, path="spec.rolloutRef")
    rollout = manifests.get(FeatureRollout, namespace, name)
    stages = [stage.name for stage in rollout.spec.stages] if rollout is not None else []
    if stages and action.spec.stage is not None and action.spec.stage not in stages:
        text = f'spec.stage: "{action.spec.stage}" is not a stage of {name}: name one of {", ".join(stages)}'
        yield Finding(Level.ERROR, Check.UNKNOWN_STAGE, where, text)
