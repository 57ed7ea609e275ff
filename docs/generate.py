"""Writes docs/reference.md from the program itself; `--check` says whether it is in step."""

import sys
from collections.abc import Iterator
from pathlib import Path

from feature_rollout.core.decision import Phase
from feature_rollout.core.reasons import DESCRIPTIONS
from feature_rollout.runtime.settings import Settings
from feature_rollout.runtime.telemetry import Telemetry

PAGE = Path(__file__).with_name("reference.md")


def page() -> str:
    return "\n".join([*_head(), *_settings(), *_metrics(), *_reasons(), *_phases()]) + "\n"


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
    yield from ("", "## Metrics", "", "| metric | type | what |", "|---|---|---|")
    for metric in sorted(Telemetry().registry.collect(), key=lambda metric: metric.name):
        suffix = "_total" if metric.type == "counter" else ""
        yield f"| `{metric.name}{suffix}` | {metric.type} | {metric.documentation} |"


def _reasons() -> Iterator[str]:
    yield from ("", "## Reasons", "", "Of conditions, Events and audit rows.", "", "| reason | meaning |", "|---|---|")
    for reason, meaning in sorted(DESCRIPTIONS.items()):
        yield f"| `{reason}` | {meaning} |"


def _phases() -> Iterator[str]:
    yield from ("", "## Phases", "", f"{', '.join(f'`{phase}`' for phase in Phase)}.", "")
    yield "A phase is a summary for people. Wait for conditions instead:"
    yield "`Ready=True` means that the rows are what the plan says they shall be now and that the guards can be"
    yield "evaluated; `Stalled=True` needs a person; `Completed=True` is the end."


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
