"""The image's root file system, made by the script that the Dockerfile runs, and the operator in it.

What a container engine does is done by hand: a mount namespace, a read-only root, the user of the image.
Neither its layers nor its metadata are tested.
"""

import fcntl
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from feature_rollout import __version__
from feature_rollout.demo import stage as demo
from support.manifests import A, rollout, stage, store
from support.operatorprocess import Operator
from support.world import World

REPOSITORY = Path(__file__).parents[2]
IMAGE = REPOSITORY / "image"
INSIDE = Path(__file__).with_name("inside.sh")
PROGRAM = "/usr/bin/featurerollout"

pytestmark = [
    pytest.mark.skipif(
        shutil.which("apt-get") is None or shutil.which("dpkg") is None, reason="the image is made of Debian's packages"
    ),
    pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the image has Python 3.11, and the wheels are for it"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount and change the root"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once a test run, by the worker that needs it first."""
    shared = (
        tmp_path_factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else tmp_path_factory.mktemp("i")
    )
    made = shared / "image"
    with (shared / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _make(shared / "image.part", shared / "wheel")
            (shared / "image.part").rename(made)
    return made


def _make(folder: Path, wheels: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, REPOSITORY], check=True)
    (wheel,) = wheels.glob("*.whl")
    env = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run([IMAGE / "rootfs", folder, wheel], check=False, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def inside(root: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([INSIDE, root, *argv], check=False, capture_output=True, text=True, timeout=120)


def test_it_is_small_in_what_it_can_do(root: Path) -> None:
    programs = {path.name for folder in ("bin", "sbin", "usr/bin", "usr/sbin") for path in (root / folder).glob("*")}
    assert programs == {"featurerollout", "python3.11"}
    privileged = [
        path for path in root.rglob("*") if path.is_file() and path.lstat().st_mode & (stat.S_ISUID | stat.S_ISGID)
    ]
    assert privileged == []
    # The locked versions, and no other.
    locked = dict(re.findall(r"^([\w.-]+)==([^ \\]+)", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE))
    found = {
        component["name"].lower().replace("_", "-"): component["version"]
        for component in json.loads(_bill(root))["components"]
        if component["purl"].startswith("pkg:pypi/")
    }
    assert found == {name: version for name, version in locked.items() if name in found}
    assert {"kopf", "kubernetes", "opentelemetry-sdk", "psycopg", "pydantic"} <= found.keys()


def test_the_program_runs_as_nobody_on_a_root_that_cannot_be_written(root: Path) -> None:
    shown = inside(root, PROGRAM, "version")
    assert (shown.returncode, shown.stdout.strip()) == (0, __version__), shown.stderr
    seen = inside(root, "/usr/bin/python3.11", "-c", _LOOK_AROUND)
    assert seen.returncode == 0, seen.stderr
    assert json.loads(seen.stdout) == {"uid": 65532, "root": "Read-only file system", "tmp": True, "zone": True}


_LOOK_AROUND = """
import json, os, ssl, zoneinfo
import psycopg.pq
try:
    open("/here", "w")
except OSError as error:
    root = error.strerror
open("/tmp/here", "w").close()
assert ssl.create_default_context().get_ca_certs()
zone = zoneinfo.ZoneInfo("Europe/Berlin").key == "Europe/Berlin"
print(json.dumps({"uid": os.geteuid(), "root": root, "tmp": True, "zone": zone}))
"""


def test_the_operator_in_it_raises_a_flag(root: Path, world: World, tmp_path: Path) -> None:
    operator = Operator(world.cluster, world.namespace, demo.SERVICE_ACCOUNT, tmp_path, program=(INSIDE, root, PROGRAM))
    try:
        operator.start()
        world.apply(store(), rollout(stages=[stage("ten", 10, "60s")]))
        world.wait_row(A, (True, 10, frozenset()))
        assert operator.stop()
    finally:
        operator.kill()


def test_its_bill_of_materials_is_valid_and_names_what_is_in_it(root: Path) -> None:
    text = _bill(root)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    assert bill["metadata"]["component"]["version"] == __version__
    wanted = {line for line in (IMAGE / "packages.txt").read_text().splitlines() if not line.startswith("#")}
    assert wanted == {c["name"] for c in bill["components"] if c["purl"].startswith("pkg:deb/debian/")}


def _bill(root: Path) -> str:
    return subprocess.run(
        [sys.executable, IMAGE / "sbom.py", root], check=True, capture_output=True, text=True, timeout=60
    ).stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{existing}", "{existing}"], "exists already"),
        (["{new}", "{new}"], "make wheel"),
    ],
    ids=["a folder that is there", "no wheel"],
)
def test_it_says_what_it_lacks(arguments: list[str], told: str, tmp_path: Path) -> None:
    names = {"existing": str(tmp_path), "new": str(tmp_path / "new")}
    argv = [IMAGE / "rootfs", *(argument.format(**names) for argument in arguments)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert told in done.stderr
    assert not (tmp_path / "new").exists()
