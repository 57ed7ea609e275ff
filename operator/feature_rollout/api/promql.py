"""Placeholders in PromQL: `{{window}}`, and `{{name}}` for an argument of the metric.

An argument is text that a rollout gives, and never becomes anything but text: it may stand
in a quoted string only, and is escaped as Prometheus documents it for string literals
(prometheus.io/docs/prometheus/latest/querying/basics/#string-literals). In a regular
expression (`=~`, `!~`) it is quoted for RE2 besides, so that it matches itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta

WINDOW = "window"
_PLACEHOLDER = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
# Strings with escapes, raw strings, comments: in none of them does a quote of another kind begin anything.
_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|`[^`]*`|#[^\n]*', re.DOTALL)
_REGEX_MATCHER = re.compile(r"[=!]~\s*$")
# What RE2 takes as an operator; re.escape would also escape what RE2 refuses to see escaped.
_RE2_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def problems(text: str, arguments: set[str]) -> Iterator[tuple[str, bool]]:
    """What cannot be replaced: the placeholder's name, and whether it is known but stands where it may not."""
    spans = [(match.span(), match[0][0]) for match in _LITERAL.finditer(text)]
    for match in _PLACEHOLDER.finditer(text):
        name = match[1]
        if name == WINDOW:
            continue
        quote = next((quote for (start, end), quote in spans if start < match.start() and match.end() < end), "")
        if name not in arguments:
            yield name, False
        elif quote not in {'"', "'"}:
            yield name, True


def with_arguments(text: str, values: Mapping[str, str]) -> str:
    """The query with each argument in its place; `{{window}}` stays. `problems` has found none."""

    def literal(match: re.Match[str]) -> str:
        quote = match[0][0]
        if quote not in {'"', "'"}:
            return match[0]
        is_regex = _REGEX_MATCHER.search(text, 0, match.start()) is not None

        def value(placeholder: re.Match[str]) -> str:
            name = placeholder[1]
            return _escaped(values[name], quote, is_regex=is_regex) if name in values else placeholder[0]

        return _PLACEHOLDER.sub(value, match[0])

    return _LITERAL.sub(literal, text)


def with_window(text: str, length: timedelta) -> str:
    """The query with the window's length as a PromQL duration."""

    def duration(match: re.Match[str]) -> str:
        return promql_duration(length) if match[1] == WINDOW else match[0]

    return _PLACEHOLDER.sub(duration, text)


def promql_duration(length: timedelta) -> str:
    """In whole seconds where it is that, else in milliseconds, which is the finest that there is."""
    milliseconds = length // timedelta(milliseconds=1)
    return f"{milliseconds // 1000}s" if milliseconds % 1000 == 0 else f"{milliseconds}ms"


def _escaped(value: str, quote: str, *, is_regex: bool) -> str:
    if is_regex:
        value = _RE2_SPECIAL.sub(r"\\\g<0>", value)
    value = value.replace("\\", "\\\\").replace(quote, f"\\{quote}")
    # So that nothing in it is taken for a placeholder afterwards.
    value = value.replace("{{", "{\\x7b")
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", value)
