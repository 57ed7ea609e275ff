"""The names of the operator's metrics, as Prometheus knows them."""

import re
from collections.abc import Iterable

from feature_rollout.runtime.telemetry import Telemetry


def known_names() -> set[str]:
    registry = Telemetry().registry
    found = {sample.name for metric in registry.collect() for sample in metric.samples}
    # What has labels has no sample before somebody sets one.
    for metric in registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(metric.type, ("",))
        found |= {metric.name + suffix for suffix in suffixes}
    return found


def used_names(texts: Iterable[str]) -> set[str]:
    return {name for text in texts for name in re.findall(r"\bfeaturerollout_\w+", text)}
