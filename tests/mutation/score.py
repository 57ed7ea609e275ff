"""How many small mistakes in the core its tests notice: `make mutation`.

mutmut makes thousands of them in `operator/feature_rollout/core`, one at a time; for each of them the tests run that
reach the place. The score is the part that makes a test fail; below SCORE_MIN the exit code is 1.

It works on a copy, because of what mutmut 3 takes for granted:

- `src/` is the only folder that is no part of a module's name: `operator/` is copied there.
- All tests are run for each file of tests: only those of the core are copied, so that no conftest.py asks for a server.
- Decorated functions, which every property is, are left alone: in the copy `@property` above a function is written as
  `name = property(name)` below it.

A run that was interrupted goes on. When the core or its tests have changed, it begins anew; with `--survivors` only
what has survived is tried again, which is right as long as tests were added and none was weakened.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import libcst as cst
import pytest

SCORE_MIN = 85.0
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".mutation"
CORE = "src/feature_rollout/core"
COPIED = {
    "operator/feature_rollout": "src/feature_rollout",
    "tests/unit/core": "tests/unit/core",
    "tests/support": "tests/support",
    "docs": "docs",
}
# What is not run: simulations of weeks, which would be run for each mutant, while tables and pins say the same of the
# same functions exactly; and what is about the source, which mutmut makes another.
LEFT_OUT = (
    "test_promises.py",
    "test_reasons.py",
    "test_decide.py::test_a_life_keeps_the_invariants_and_after_a_latch_nothing_raises",
    "test_decide.py::test_the_standstill_comes_before_all_that_waits",
    "test_evaluation.py::test_it_is_the_definition",
    "test_evidence.py::test_a_healthy_week_is_not_conclusive",
    "test_health.py::test_the_table_has_every_reason_to_wait",
    "test_relative.py::test_healthy_days_fire_no_guard",
    "test_sample.py::test_a_healthy_split_is_rarely_held",
    "test_signs.py::test_healthy_plans_stay_within_the_budget",
)
# mutmut asks for it; what is mutated is said below.
SETTINGS = '\n[tool.mutmut]\nsource_paths = ["src"]\n'
KILLED, TIMED_OUT, SURVIVED, UNTRIED = "killed", "timed out", "survived", "not tried"
SAVED_EVERY_S = 10.0


class Undecorated(cst.CSTTransformer):
    """Decorators of functions become calls below them, for mutmut to see the functions."""

    def leave_FunctionDef(  # noqa: N802 - libcst's name
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> cst.FunctionDef | cst.FlattenSentinel[cst.BaseStatement]:
        decorators = [decorator.decorator for decorator in original_node.decorators]
        if not decorators or any(isinstance(d, cst.Name) and d.value in KNOWN_DECORATORS for d in decorators):
            return updated_node
        value: cst.BaseExpression = updated_node.name
        for decorator in reversed(decorators):
            value = cst.Call(decorator, [cst.Arg(value)])
        below = cst.Assign([cst.AssignTarget(updated_node.name)], value)
        return cst.FlattenSentinel([updated_node.with_changes(decorators=()), cst.SimpleStatementLine([below])])


KNOWN_DECORATORS = ("classmethod", "staticmethod")  # to mutmut


@dataclass
class Results:
    """What became of each mutant, kept in a file. `sources` are digests of the modules as they were mutated."""

    path: Path
    fingerprint: str = ""
    sources: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    saved_at: float = 0.0

    @classmethod
    def read(cls, path: Path) -> Results:
        return cls(path, **json.loads(path.read_text())) if path.exists() else cls(path)

    def save(self) -> None:
        known: dict[str, Any] = {name: getattr(self, name) for name in ("fingerprint", "sources", "outcomes")}
        self.path.with_suffix(".new").write_text(json.dumps(known, indent=1))
        self.path.with_suffix(".new").replace(self.path)
        self.saved_at = time.monotonic()

    def tell(self, mutant: str, outcome: str) -> None:
        self.outcomes[mutant] = outcome
        if time.monotonic() - self.saved_at > SAVED_EVERY_S:
            self.save()
            counts = Counter(self.outcomes.values())
            tried = counts - Counter({UNTRIED: counts[UNTRIED]})
            say(f"{tried.total()} of {counts.total()} mutants, {score(tried):.1f}% killed, {counts[SURVIVED]} survived")

    def forget(self, outcomes: Iterable[str]) -> None:
        self.outcomes = {m: UNTRIED if outcome in outcomes else outcome for m, outcome in self.outcomes.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--survivors", action="store_true", help="try only those again that have survived")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="how many at a time; one a CPU by default")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="modules of the core, such as exposure; else all")
    arguments = parser.parse_args()
    prepare_folder()
    os.chdir(FOLDER)
    # Before what `make setup` has installed.
    sys.path.insert(0, str(FOLDER / "src"))
    results = Results.read(FOLDER / "results.json")
    fingerprint = _digest(sorted([*_copied(Path("src")), *_copied(Path("tests")), Path("pyproject.toml")]))
    survived = {mutant for mutant, outcome in results.outcomes.items() if outcome == SURVIVED}
    if results.fingerprint != fingerprint:
        results.forget({SURVIVED} if arguments.survivors else {KILLED, TIMED_OUT, SURVIVED})
    results.fingerprint = fingerprint
    mutate(results)
    results.save()
    wanted = [m for m, outcome in results.outcomes.items() if outcome == UNTRIED and _is_of(m, arguments.modules)]
    # All files mixed, so that the score so far tells early what it will be; last what no test may notice, which has all
    # of them to pass.
    wanted.sort(key=lambda mutant: (mutant in survived, hashlib.sha256(mutant.encode()).digest()))
    code = run(wanted, arguments.workers, results) if wanted else 0
    results.save()
    found = {m: outcome for m, outcome in results.outcomes.items() if _is_of(m, arguments.modules)}
    say(table(found))
    return code or int(score(Counter(found.values())) < SCORE_MIN)


def prepare_folder() -> None:
    """Copy what is needed; the modules of the core are kept aside, for what is mutated to go to their place."""
    for source, target in COPIED.items():
        _copy(ROOT / source, FOLDER / target)
    (FOLDER / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + SETTINGS)


def _copy(source: Path, target: Path) -> None:
    wanted = {path.relative_to(source) for path in _copied(source)}
    for path in _copied(target):
        if path.relative_to(target) not in wanted:
            path.unlink()
    for name in wanted:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((source / name).read_bytes())


def _copied(folder: Path) -> list[Path]:
    """Modules, and the sentences that tests read."""
    return [path for suffix in ("py", "txt") for path in folder.rglob(f"*.{suffix}")]


def mutate(results: Results) -> None:
    """Write all mutants of each module into the copy; a module that is another than before has no results."""
    from mutmut.mutation.file_mutation import mutate_file_contents  # it reads the settings in this folder

    known, results.outcomes, made = results.outcomes, {}, FOLDER / "mutated"
    made.mkdir(exist_ok=True)
    for path in sorted(Path(CORE).glob("*.py")):
        text, digest = path.read_text(), _digest([path])
        kept = made / f"{path.stem}-{digest[:16]}.py"
        if not kept.exists():
            say(f"mutating {path.name}")
            plain = cst.parse_module(text).visit(Undecorated()).code
            mutated = mutate_file_contents(str(path), plain)
            kept.write_text(mutated.code + "\n# mutants: " + json.dumps(list(mutated.mutant_names)) + "\n")
        code = kept.read_text()
        path.write_text(code)
        prefix, is_known = f"feature_rollout.core.{path.stem}.", results.sources.get(path.stem) == digest
        names = [prefix + name for name in json.loads(code.rpartition("# mutants: ")[2])]
        results.outcomes |= {name: known.get(name, UNTRIED) if is_known else UNTRIED for name in names}
        results.sources[path.stem] = digest


def run(mutants: Sequence[str], workers: int, results: Results) -> int:
    from runner import Runner  # it imports mutmut, which reads the settings in this folder

    left_out = [f"--{'deselect' if '::' in test else 'ignore'}=tests/unit/core/{test}" for test in LEFT_OUT]
    # pytest's own tracebacks parse the whole module again, which with all its mutants is megabytes.
    quick = ["-q", "-s", "--tb=native"]
    options = [*quick, "-p", "no:cacheprovider", "-p", "no:xdist", "--timeout=0", "--hypothesis-seed=0"]
    os.environ["FEATUREROLLOUT_NO_SHRINKING"] = "1"
    return int(pytest.main([*options, *left_out, "tests/unit/core"], [Runner(mutants, workers, results.tell)]))


def score(counts: Counter[str]) -> float:
    return 100 * (counts[KILLED] + counts[TIMED_OUT]) / max(counts.total(), 1)


def table(outcomes: dict[str, str]) -> str:
    """A line for each module, and the mutants that live."""
    modules: dict[str, Counter[str]] = {}
    for mutant, outcome in outcomes.items():
        modules.setdefault(_module(mutant), Counter())[outcome] += 1
    columns = (KILLED, TIMED_OUT, SURVIVED, UNTRIED)
    lines = ["", f"{'file':16}{'mutants':>9}" + "".join(f"{column:>11}" for column in columns) + f"{'score':>9}"]
    for module, counts in [*modules.items(), ("total", Counter(outcomes.values()))]:
        numbers = "".join(f"{counts[column]:>11}" for column in columns)
        lines.append(f"{module:16}{counts.total():>9}{numbers}{score(counts):>8.1f}%")
    return "\n".join(
        [*lines, f"At least {SCORE_MIN:g}% of the total must be killed. What survived: {FOLDER.name}/results.json"]
    )


def _module(mutant: str) -> str:
    return mutant.split(".")[2]


def _is_of(mutant: str, modules: Sequence[str]) -> bool:
    return not modules or _module(mutant) in modules


def _digest(paths: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
