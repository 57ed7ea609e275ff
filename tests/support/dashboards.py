"""What the chart's dashboards ask, with variables filled in as Grafana does."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from support.helm import CHART

DASHBOARDS = {path.stem: path for path in sorted((CHART / "files" / "dashboards").glob("*.json"))}
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def load(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def queries(dashboard: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each panel's title and one of its queries."""
    for panel in dashboard["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", ()))


def documented() -> list[str]:
    """The queries of docs/observability.md."""
    page = (CHART.parents[1] / "docs" / "observability.md").read_text(encoding="utf-8")
    return re.findall(r"^```promql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def filled(query: str, values: Mapping[str, str]) -> str:
    """KeyError for a variable that has no value."""
    return VARIABLE.sub(lambda found: values[found[1] or found[2]], query)
