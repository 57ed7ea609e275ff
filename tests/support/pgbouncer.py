"""PgBouncer in transaction mode: from PATH, or Debian's packages unpacked into the cache folder.

Passwords are PostgreSQL's own: PgBouncer asks the server for a role's SCRAM secret, as most installations do.
"""

import os
import platform
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from feature_rollout.sandbox import build
from feature_rollout.sandbox.database import SUPERUSER, PostgresAccess
from feature_rollout.sandbox.debian import DebianPackages
from feature_rollout.sandbox.errors import SandboxError
from feature_rollout.sandbox.processes import Process, free_ports, wait_until
from feature_rollout.sandbox.progress import Progress

TITLE = "PgBouncer"
PROGRAM = Path("usr") / "sbin" / "pgbouncer"
# The packages of the libraries that it needs and that a small machine may lack.
PACKAGES = {
    "libcares.so.2": "libc-ares2",
    "libevent-2.1.so.7": "libevent-2.1-7",
    "libpam.so.0": "libpam0g",
    "libssl.so.3": "libssl3",
    "libcrypto.so.3": "libssl3",
    "libsystemd.so.0": "libsystemd0",
}
START_TIMEOUT_S = 30.0
# Small, so that clients do get each other's sessions.
SESSIONS_A_ROLE = 4

CONFIGURATION = """
[databases]
* = host={host} port={server_port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = 500
auth_type = scram-sha-256
auth_file = {folder}/users
auth_user = {superuser}
auth_query = SELECT usename, passwd FROM pg_catalog.pg_shadow WHERE usename = $1
"""


def find_or_install(env: Mapping[str, str] = os.environ) -> Path:
    """The folder `usr/sbin` and `usr/lib` are in. SandboxError when PgBouncer is neither here nor can be had."""
    on_path = shutil.which("pgbouncer", path=f"{env.get('PATH', '')}:/usr/sbin")
    if on_path:
        return Path(on_path).resolve().parents[2]
    folder = build.cache_folder(env) / f"pgbouncer-{_system()}"
    if not (folder / PROGRAM).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with build.locked(folder.with_name(f"{folder.name}.lock"), TITLE):
            if not (folder / PROGRAM).exists():
                _install(folder)
    return folder


def _system() -> str:
    release = platform.freedesktop_os_release()
    return f"{release['ID']}-{release.get('VERSION_ID', 'rolling')}"


def _install(folder: Path) -> None:
    progress = Progress(TITLE, f"unpacking Debian's package into {folder}, once; there is none on PATH")
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        packages, unpacked = DebianPackages(Path(scratch), progress), Path(scratch, "unpacked")
        wanted = {"pgbouncer"}
        while wanted:
            packages.unpack(wanted, unpacked)
            missing = {PACKAGES.get(library, library) for library in _missing_libraries(unpacked)}
            if missing & wanted:
                raise SandboxError(f"PgBouncer does not find its libraries: {', '.join(sorted(missing))}")
            wanted = missing
        unpacked.rename(folder)
    progress.done("done")


def _missing_libraries(root: Path) -> set[str]:
    done = subprocess.run(["ldd", root / PROGRAM], capture_output=True, text=True, check=True, env=_environment(root))
    return set(re.findall(r"(\S+) => not found", done.stdout))


def _environment(root: Path) -> dict[str, str]:
    folders = sorted({str(library.parent) for library in (root / "usr" / "lib").glob("*/*.so*")})
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(folders)}


class PgBouncer:
    """A running PgBouncer before this server."""

    def __init__(self, port: int) -> None:
        self._port = port

    def uri(self, direct: str) -> str:
        """The same database and login as of this connection string, through PgBouncer."""
        return re.sub(r"@127\.0\.0\.1:\d+/", f"@127.0.0.1:{self._port}/", direct)


@contextmanager
def running(server: PostgresAccess, found: Path) -> Iterator[PgBouncer]:
    """Start the PgBouncer that was found before this server; SandboxError when it does not start."""
    folder = Path(tempfile.mkdtemp(prefix="featurerollout-pgbouncer-"))
    try:
        port = free_ports(1)[0]
        settings = {"host": server.host, "server_port": server.port, "port": port, "folder": folder}
        text = CONFIGURATION.format(**settings, sessions=SESSIONS_A_ROLE, superuser=SUPERUSER)
        (folder / "pgbouncer.ini").write_text(text)
        (folder / "users").write_text(f'"{SUPERUSER}" "{server.password}"\n')
        program, libraries = found / PROGRAM, {}
        if found != Path("/"):
            # A copy, because the account that runs it may not look into the cache folder of this one.
            shutil.copytree(found / "usr", folder / "usr")
            program, libraries = folder / PROGRAM, _environment(folder)
        account = _unprivileged_account()
        if account is not None:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
        process = Process(
            [program, folder / "pgbouncer.ini"],
            log=folder / "pgbouncer.log",
            folder=folder,
            uid=account.pw_uid if account else -1,
            gid=account.pw_gid if account else -1,
            env=libraries,
        )
        try:
            wait_until(
                lambda: "process up" in process.log.read_text(), [process], what="readiness", timeout_s=START_TIMEOUT_S
            )
            yield PgBouncer(port)
        finally:
            process.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged_account() -> pwd.struct_passwd | None:
    """Who runs it when this is root, as which it does not run."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None
