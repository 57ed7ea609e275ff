"""The evaluator, which services import, brings psycopg and nothing else of the operator's libraries."""

import subprocess
import sys

from feature_rollout.evaluator import Evaluation, Exposure, FlagClient, Reason, TableMapping, evaluate

HEAVY = ("kopf", "kubernetes", "pydantic", "aiohttp", "prometheus_client", "click", "rich", "yaml")


def test_importing_it_brings_none_of_the_operators_libraries() -> None:
    code = "import sys, feature_rollout.evaluator as e\n"
    code += f"print([name for name in {HEAVY} if name in sys.modules])\n"
    code += "print('psycopg' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\nTrue\n"


def test_it_says_of_itself_what_may_be_imported() -> None:
    from feature_rollout import evaluator

    assert {Evaluation, Exposure, FlagClient, Reason, TableMapping, evaluate} <= {
        getattr(evaluator, name) for name in evaluator.__all__
    }


def test_before_the_first_rows_nobody_has_anything_and_that_is_said() -> None:
    client = FlagClient("postgresql://service@db.invalid/app")
    assert client.evaluate("alpha", "u") == Evaluation(False, Reason.ROWS_UNKNOWN)
    assert client.is_enabled("alpha", "u") is False
    assert client.age_s is None
    client.close()
