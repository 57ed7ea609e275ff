"""A certificate authority for one test, made by openssl."""

import shutil
import subprocess
from pathlib import Path

import pytest

from feature_rollout.sandbox import toolchain

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def tls_postgres() -> toolchain.PostgresInstallation:
    """The newest PostgreSQL that speaks TLS; that of the wheel does not."""
    able = [found for found in toolchain.postgres_installations() if "site-packages" not in found.bin_dir.parts]
    if not able or shutil.which("openssl") is None:
        pytest.skip("TLS IS NOT TESTED: it needs openssl and a PostgreSQL of the system, the wheel's has no TLS")
    return able[-1]


def openssl_or_skip() -> None:
    if shutil.which("openssl") is None:
        pytest.skip("TLS IS NOT TESTED: it needs openssl")


class Authority:
    """`certificate` is its own, in PEM; `issue` makes those of servers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._openssl("req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test", "-days", "2")
        self.certificate = (folder / "ca.crt").read_text()

    def issue(self, name: str, *, days: int = 1) -> tuple[str, str]:
        """Return certificate and key of a host, in PEM; `days` below 0 makes one that has expired."""
        (self._folder / "names").write_text(f"subjectAltName=DNS:{name}")
        self._openssl("req", "-new", *_KEY, "-keyout", "host.key", "-out", "host.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", str(days), "-extfile", "names")
        self._openssl("x509", "-req", "-in", "host.csr", "-out", "host.crt", *signed)
        return (self._folder / "host.crt").read_text(), (self._folder / "host.key").read_text()

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True, timeout=30)
