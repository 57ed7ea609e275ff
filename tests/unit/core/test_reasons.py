"""Reasons are an interface: every one that the source can say is described, and every described one is said."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import feature_rollout
from feature_rollout.core import reasons

PACKAGE = Path(feature_rollout.__file__).parent
SOURCES = {path: ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py") if path != PACKAGE / "core/reasons.py"}
REASON = re.compile(r"([A-Z][a-z]+){2,}")
CONSTANTS = {name: value for name, value in vars(reasons).items() if name.isupper() and isinstance(value, str)}
SAYERS = {"Problem", "Trouble", "InvalidPlan"}


def _named() -> set[str]:
    """The constants of `reasons` that are used anywhere."""
    return {
        node.attr
        for tree in SOURCES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "reasons"
    }


def _literals(tree: ast.AST) -> set[str]:
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def _own(path: Path, tree: ast.Module) -> Iterator[str]:
    """Constants of a module that says reasons of its own, and reasons that it says without a constant."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    said = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in SAYERS]
    for call in said:
        if call.args and isinstance(call.args[0], ast.Constant):
            yield call.args[0].value
    if not said and path.name != "reasons.py":
        return
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            value = node.value.value
            if isinstance(value, str) and REASON.fullmatch(value):
                yield value


def test_the_constants_are_the_descriptions() -> None:
    assert set(CONSTANTS.values()) <= set(reasons.DESCRIPTIONS)
    assert all(re.fullmatch(r"[A-Z][A-Za-z]+", reason) for reason in reasons.DESCRIPTIONS)
    assert all(text.endswith(".") for text in reasons.DESCRIPTIONS.values())


def test_every_reason_that_is_said_is_described() -> None:
    own = {reason: path.name for path, tree in SOURCES.items() for reason in _own(path, tree)}
    assert {reason: where for reason, where in own.items() if reason not in reasons.DESCRIPTIONS} == {}


def test_every_reason_that_is_described_is_said() -> None:
    named = {CONSTANTS[name] for name in _named() if name in CONSTANTS}
    literals = {literal for tree in SOURCES.values() for literal in _literals(tree)}
    assert set(reasons.DESCRIPTIONS) - named - literals == set()
