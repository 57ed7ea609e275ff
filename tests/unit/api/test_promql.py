"""Placeholders in PromQL: an argument is text, wherever it stands, and nothing else is touched.

| where it stands | then |
|---|---|
| in a string in double or single quotes | escaped for that string |
| in the string of a regular expression | matches itself only |
| outside of a string, in a raw string, in a comment | refused |
| a name that is no argument | refused |
"""

from datetime import timedelta

import pytest

from feature_rollout.api import promql

ESCAPED = [
    ('x{a="{{f}}"}', "plain", 'x{a="plain"}'),
    ('x{a="{{f}}"}', 'say "hi"', r'x{a="say \"hi\""}'),
    ("x{a='{{f}}'}", "it's", r"x{a='it\'s'}"),
    ("x{a='{{f}}'}", 'say "hi"', "x{a='say \"hi\"'}"),
    ('x{a="{{f}}"}', "a\\b\n", r'x{a="a\\b\x0a"}'),
    ('x{a="{{f}}"}', "{{window}}", r'x{a="{\x7bwindow}}"}'),
    ('x{a="pre-{{ f }}-post"}', "é", 'x{a="pre-é-post"}'),
    ('x{a=~"{{f}}|other"}', "v1.2+(x)", r'x{a=~"v1\\.2\\+\\(x\\)|other"}'),
    ('x{a !~ "{{f}}"}', "a-b_c/d", 'x{a !~ "a-b_c/d"}'),
    (r'x{a="\"",b="{{f}}"}', "v", r'x{a="\"",b="v"}'),
    ("x{a=\"it's\",b='{{f}}'}", "v", "x{a=\"it's\",b='v'}"),
    ("x[{{window}}]", "v", "x[{{window}}]"),
]


@pytest.mark.parametrize(("text", "value", "rendered"), ESCAPED)
def test_an_argument_stays_text(text: str, value: str, rendered: str) -> None:
    assert list(promql.problems(text, {"f"})) == []
    assert promql.with_arguments(text, {"f": value}) == rendered


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x{{{f}}}", [("f", True)]),
        ("x[{{f}}]", [("f", True)]),
        ("x{a=`{{f}}`}", [("f", True)]),
        ('x # "{{f}}"', [("f", True)]),
        ('x{a="{{g}}"}', [("g", False)]),
        ('x{a="{{ .Flag }}"}', [(".Flag", False)]),
        ('x{a="unterminated {{f}}', [("f", True)]),
        ('x{a="{{window}}"}[{{ window }}]', []),
    ],
)
def test_what_cannot_be_replaced(text: str, found: list[tuple[str, bool]]) -> None:
    assert list(promql.problems(text, {"f"})) == found


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(seconds=30), "30s"),
        (timedelta(days=7), "604800s"),
        (timedelta(milliseconds=1500), "1500ms"),
    ],
)
def test_the_window_is_a_duration(length: timedelta, text: str) -> None:
    assert (
        promql.with_window("increase(x[{{window}}] offset {{ window }})", length)
        == f"increase(x[{text}] offset {text})"
    )
