"""What is in the image, as a CycloneDX document: python image/sbom.py FOLDER > sbom.json

FOLDER is a root file system that `image/rootfs` has made. Python packages are read from
their metadata in it, Debian packages from `var/lib/dpkg/status.d`.
"""

import sys
from collections.abc import Iterator
from email.parser import HeaderParser
from importlib.metadata import distributions
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

PROGRAM = "feature-rollout-operator"


def bill_of_materials(root: Path) -> str:
    """CycloneDX 1.6 as JSON; the document's subject is the operator itself. Raises ValueError when it is not there."""
    components = [*_python(root), *_debian(root)]
    program = next((component for component in components if component.name == PROGRAM), None)
    if program is None:
        raise ValueError(f"{root} holds no {PROGRAM}: make it with image/rootfs")
    components.remove(program)
    bom = Bom(components=components)
    bom.metadata.component = program
    bom.register_dependency(program, components)
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)


def _python(root: Path) -> Iterator[Component]:
    for found in distributions(path=[str(root / "usr/lib/python3/dist-packages")]):
        kind = ComponentType.APPLICATION if found.name == PROGRAM else ComponentType.LIBRARY
        url = PackageURL("pypi", None, found.name.lower(), found.version)
        yield Component(name=found.name, version=found.version, type=kind, purl=url, bom_ref=str(url))


def _debian(root: Path) -> Iterator[Component]:
    for status in sorted((root / "var/lib/dpkg/status.d").iterdir()):
        fields = HeaderParser().parsestr(status.read_text(encoding="utf-8"))
        name, version = fields["Package"], fields["Version"]
        url = PackageURL("deb", "debian", name, version, {"arch": fields["Architecture"]})
        yield Component(name=name, version=version, type=ComponentType.LIBRARY, purl=url, bom_ref=str(url))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python image/sbom.py FOLDER")
    try:
        sys.stdout.write(bill_of_materials(Path(sys.argv[1])) + "\n")
    except (OSError, ValueError) as problem:
        sys.exit(str(problem))
