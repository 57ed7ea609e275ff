"""Writes docs/reference.md from the program itself; `--check` says whether it is in step."""

import sys
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase
from situations import LEADING, OTHERS, table

from feature_rollout.core.health import CONDITIONS, PHASES
from feature_rollout.core.reasons import DESCRIPTIONS
from feature_rollout.runtime.figures import FAMILIES, PREFIX
from feature_rollout.runtime.settings import Settings
from feature_rollout.runtime.telemetry import Telemetry

# Their order in a cell.
VALUES = ("True", "False", "Unknown", "-")
PAGE = Path(__file__).with_name("reference.md")


def page() -> str:
    return "\n".join([*_head(), *_settings(), *_metrics(), *_reasons(), *_phases(), *_situations()]) + "\n"


def _head() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "Made from the program by `make generate`. The fields of the objects are in the CRDs:"
    yield "`kubectl explain featurerollout.spec --recursive`."


def _settings() -> Iterator[str]:
    yield from ("", "## Settings of `featurerollout run`", "", "| variable | default | what |", "|---|---|---|")
    for name, field in Settings.model_fields.items():
        default = ", ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
        shown = f"`{default}`" if default not in ("", None) else ""
        yield f"| `FEATUREROLLOUT_{name.upper()}` | {shown} | {field.description} |"


def _metrics() -> Iterator[str]:
    yield from ("", "## Metrics", "", "| metric | type | labels | what |", "|---|---|---|---|")
    telemetry = Telemetry()
    labels = {PREFIX + name: of for name, _, of in FAMILIES} | dict(_labels_of(telemetry))
    for metric in sorted(telemetry.registry.collect(), key=lambda metric: metric.name):
        suffix, names = "_total" if metric.type == "counter" else "", ", ".join(labels[metric.name])
        yield f"| `{metric.name}{suffix}` | {metric.type} | {names} | {metric.documentation} |"


def _labels_of(telemetry: Telemetry) -> Iterator[tuple[str, tuple[str, ...]]]:
    for found in vars(telemetry).values():
        if isinstance(found, MetricWrapperBase):
            (family,) = found.describe()
            yield family.name, found._labelnames  # noqa: SLF001 - nothing else says them before there is a sample


def _reasons() -> Iterator[str]:
    yield from ("", "## Reasons", "", "Of conditions, Events and audit rows.", "", "| reason | meaning |", "|---|---|")
    for reason, meaning in sorted(DESCRIPTIONS.items()):
        yield f"| `{reason}` | {meaning} |"


def _phases() -> Iterator[str]:
    yield from ("", "## Phases and conditions", "")
    yield "A phase is a summary for people. Wait for conditions instead:"
    yield "`Ready=True` means that the rows are what the plan says they shall be now and that the guards can be"
    yield "evaluated; `Stalled=True` needs a person; `Completed=True` is the end."
    yield from ("", "| phase | what |", "|---|---|")
    for phase, meaning in PHASES.items():
        yield f"| `{phase}` | {meaning} |"
    yield from ("", "| condition | what |", "|---|---|")
    for condition, meaning in CONDITIONS.items():
        yield f"| `{condition}` | {meaning} |"


def _situations() -> Iterator[str]:
    yield from ("", "## What tools make of it", "")
    yield "Each phase with the conditions that it can have, what kstatus reads out of them (Helm's `--wait`, Flux), and"
    yield "the health that Argo CD shall show. Where a condition has several values, the situation decides; `-` is one"
    yield "that is not there. The reasons are those of `Stalled` and `Reconciling`. `FieldsInEffect` is independent of"
    yield "all of this. An object that is being deleted is Terminating and Progressing, whatever its phase, and one"
    yield "whose `observedGeneration` is not its generation is InProgress and Progressing."
    heads = ("phase", *LEADING, "kstatus", "Argo CD", *OTHERS, "reasons")
    yield from ("", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|")
    for key, line in table().items():
        others = (", ".join(sorted(line.others[kind], key=VALUES.index)) for kind in OTHERS)
        reasons = ", ".join(f"`{reason}`" for reason in sorted(line.reasons))
        yield f"| {' | '.join((f'`{key[0]}`', *key[1:], *others, reasons))} |"


def main() -> int:
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.read_text(encoding="utf-8") == page():
        return 0
    sys.stderr.write("docs/reference.md differs from the program: run make generate\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
