"""The command line as a test runs it: connection strings in the environment, and answers searched for secrets."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from click.testing import CliRunner

from feature_rollout.cli import main

ALL_VARIABLES = ("FEATUREROLLOUT_DATABASE_URI", *(f"FEATUREROLLOUT_{r}_URI" for r in ("WRITER", "READER", "OWNER")))


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


async def featurerollout(*arguments: str, env: Mapping[str, str], stdin: str | None = None) -> Answer:
    """Run a verb beside the test's own loop. No secret may be in what it says."""
    all_env: dict[str, str | None] = {**dict.fromkeys(ALL_VARIABLES), **env}
    done = await asyncio.to_thread(CliRunner().invoke, main, list(arguments), input=stdin, env=all_env)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    for uri in (*env.values(), stdin or ""):
        secret = urlsplit(uri.strip()).password
        assert not secret or secret not in done.output
    return Answer(done.exit_code, done.stdout, done.stderr)
