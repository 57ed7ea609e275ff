"""Writes values.yaml, values.schema.json and the table in README.md from values.py, and the dashboards from
dashboards.py; `--check` compares only.
"""

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from dashboards import dashboards
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from values import Values

CHART = Path(__file__).with_name("feature-rollout-operator")
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"
HEAD = "# Generated from charts/values.py by `make generate`; README.md has the same as a table.\n"
LINE_CHARACTERS_MAX = 110


def files() -> dict[Path, str]:
    readme = CHART / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return {
        CHART / "values.yaml": HEAD + "\n".join(_yaml(Values(), "")) + "\n",
        CHART / "values.schema.json": json.dumps(_schema(), indent=2) + "\n",
        readme: before + BEGIN + "\n".join(_table()) + "\n" + END + after,
        **{
            CHART / "files" / "dashboards" / f"{name}.json": json.dumps(made, indent=1) + "\n"
            for name, made in dashboards().items()
        },
    }


def _schema() -> dict[str, Any]:
    schema = Values.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _yaml(model: BaseModel, indent: str) -> Iterator[str]:
    for name, field, value in _fields(model):
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _yaml(value, f"{indent}  ")
            continue
        for line in textwrap.wrap(_description(field), LINE_CHARACTERS_MAX):
            yield f"{indent}# {line}"
        text = yaml.safe_dump({name: value}, sort_keys=False, default_flow_style=False, width=LINE_CHARACTERS_MAX)
        yield from (f"{indent}{line}" for line in text.splitlines())


def _table() -> Iterator[str]:
    yield from ("| value | default | what |", "|---|---|---|")
    yield from _rows(Values(), "")


def _rows(model: BaseModel, prefix: str) -> Iterator[str]:
    for name, field, value in _fields(model):
        if isinstance(value, BaseModel):
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield f"| `{prefix}{name}` | `{json.dumps(value)}` | {_description(field)} |"


def _fields(model: BaseModel) -> Iterator[tuple[str, FieldInfo, Any]]:
    for key, field in type(model).model_fields.items():
        if field.alias != "global":
            yield key, field, getattr(model, key)


def _description(field: FieldInfo) -> str:
    items = [part for part in getattr(field.annotation, "__args__", ()) if _is_model(part)]
    described = [(name, part.description) for item in items for name, part in item.model_fields.items()]
    parts = "; ".join(f"`{name}` ({said.rstrip('.')})" for name, said in described if said)
    if not parts:
        return field.description or ""
    who = "Each" if field.default == [] else "It"
    return f"{field.description} {who} has {parts}."


def _is_model(part: object) -> bool:
    return isinstance(part, type) and issubclass(part, BaseModel)


def main() -> int:
    expected = files()
    if sys.argv[1:] != ["--check"]:
        for path, text in expected.items():
            path.write_text(text, encoding="utf-8")
        return 0
    different = [path for path, text in expected.items() if not path.exists() or path.read_text("utf-8") != text]
    for path in different:
        sys.stderr.write(f"{path} differs from what charts/*.py say: run make generate\n")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
