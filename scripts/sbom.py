"""Write what a wheel or an image consists of, in CycloneDX 1.6 (ECMA-424).

    python scripts/sbom.py wheel FILE --libcrypto VERSION        into the wheel, as PEP 770 has it
    python scripts/sbom.py environment [--tree DIRECTORY]        of the Python that runs it: TSQ and what it needs; with
                                                                 the shared libraries of the image, by Debian package

Comes in: a wheel, or the installed distributions. Goes out: JSON, in an order that depends on nothing but them. It must never name
a component that it did not see or was not told.
"""

import argparse
import base64
import email.parser
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
import zipfile
from collections.abc import Iterable
from email.message import Message
from pathlib import Path
from typing import Any

NAME = "tsq-time"


def document(main: dict[str, Any], components: list[dict[str, Any]], needs: Iterable[tuple[str, list[str]]]) -> str:
    """A bill of materials: what it is about, what is in it, and who needs whom."""
    body = {
        "metadata": {"component": main},
        "components": sorted(components, key=lambda one: str(one["bom-ref"])),
        "dependencies": [{"ref": ref, "dependsOn": sorted(others)} for ref, others in sorted(needs)],
    }
    # The same content has the same serial number.
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))
    top = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "bomFormat": "CycloneDX", "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}", "version": 1,
    }  # fmt: skip
    return json.dumps(top | body, indent=1) + "\n"


def normal(name: str) -> str:
    """A distribution's name as the index has it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def component(metadata: Message, kind: str) -> dict[str, Any]:
    """A Python distribution."""
    name, version = normal(metadata["Name"]), metadata["Version"]
    address = f"pkg:pypi/{name}@{version}"
    found: dict[str, Any] = {"type": kind, "bom-ref": address, "name": name, "version": version, "purl": address}
    if expression := metadata["License-Expression"]:
        found["licenses"] = [{"expression": expression}]
    return found


def libcrypto(version: str) -> dict[str, Any]:
    """The libcrypto that a wheel carries."""
    address = f"pkg:generic/openssl@{version}"
    return {
        "type": "library", "bom-ref": address, "name": "openssl", "version": version, "purl": address,
        "cpe": f"cpe:2.3:a:openssl:openssl:{version}:*:*:*:*:*:*:*", "description": "libcrypto, built by scripts/openssl.sh",
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }  # fmt: skip


def into_wheel(wheel: Path, version: str) -> None:
    """Add the document to a wheel, and to its RECORD; nothing else changes."""
    handle, new = tempfile.mkstemp(dir=wheel.parent)
    with (
        os.fdopen(handle, "wb") as file,
        zipfile.ZipFile(wheel) as old,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        (record,) = [one for one in old.infolist() if one.filename.endswith(".dist-info/RECORD")]
        home = record.filename.rpartition("/")[0]
        main = component(email.parser.Parser().parsestr(old.read(f"{home}/METADATA").decode()), "library")
        crypto = libcrypto(version)
        text = document(main, [crypto], [(main["bom-ref"], [crypto["bom-ref"]]), (crypto["bom-ref"], [])]).encode()
        name = f"{home}/sboms/tsq.cdx.json"
        for one in old.infolist():
            if one is not record:
                archive.writestr(one, old.read(one))
        digest = base64.urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b"=").decode()
        archive.writestr(_like(record, name), text)
        archive.writestr(record, old.read(record) + f"{name},sha256={digest},{len(text)}\n".encode())
    os.chmod(new, 0o644)
    os.replace(new, wheel)


def _like(other: zipfile.ZipInfo, name: str) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name, other.date_time)
    made.compress_type, made.external_attr = zipfile.ZIP_DEFLATED, other.external_attr
    return made


def debian_packages(tree: Path) -> list[dict[str, Any]]:
    """The packages from which the shared libraries in a tree are, if this is a Debian."""
    names = sorted({path.name for path in (tree / "usr/lib").glob("*-linux-*/*.so*")})
    if not names or not shutil.which("dpkg-query"):
        return []
    listed = subprocess.run(
        ["dpkg-query", "-S", *(f"*/{name}" for name in names)], capture_output=True, text=True, check=False
    ).stdout
    packages = sorted({line.partition(": ")[0].split(",")[0] for line in listed.splitlines() if "/usr/lib/debug" not in line})
    shown = ["dpkg-query", "-W", "-f", "${Package} ${Version} ${Architecture} ${db:Status-Abbrev}\n", *packages]
    found = []
    for line in subprocess.run(shown, capture_output=True, text=True, check=True).stdout.splitlines():
        name, version, machine, _ = line.split(maxsplit=3)
        address = f"pkg:deb/debian/{name}@{version.replace('+', '%2B').replace(':', '%3A')}?arch={machine}"
        found.append({"type": "library", "bom-ref": address, "name": name, "version": version, "purl": address})
    return found


def of_environment(tree: Path | None) -> str:
    """TSQ and what it needs, as this Python has them installed, and this Python."""
    components: dict[str, dict[str, Any]] = {}
    needs: dict[str, list[str]] = {}

    def visit(name: str) -> str | None:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            return None
        one = component(distribution.metadata, "application" if name == NAME else "library")
        ref = str(one["bom-ref"])
        if ref not in components:
            components[ref] = one
            needs[ref] = []
            # Without what only an extra, another Python or another system requires.
            wanted = [line.partition(";") for line in distribution.requires or []]
            names = [re.match(r"[\w.-]+", text) for text, _, condition in wanted if "extra" not in condition]
            needs[ref] = [found for match in names if match and (found := visit(normal(match[0])))]
        return ref

    top = visit(NAME)
    if top is None:
        raise SystemExit(f"sbom: {NAME} is not installed for {sys.executable} (expected: the Python of the image)")
    version = ".".join(map(str, sys.version_info[:3]))
    python = f"pkg:generic/python@{version}"
    main = components.pop(top)
    components[python] = {"type": "platform", "bom-ref": python, "name": "python", "version": version, "purl": python}
    for one in debian_packages(tree) if tree else []:
        components[str(one["bom-ref"])] = one
        needs[str(one["bom-ref"])] = []
    return document(main, list(components.values()), [*((ref, sorted({*found})) for ref, found in needs.items()), (python, [])])


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Write a bill of materials.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("wheel", allow_abbrev=False)
    one.add_argument("file", type=Path)
    one.add_argument("--libcrypto", required=True)
    other = commands.add_parser("environment", allow_abbrev=False)
    other.add_argument("--tree", type=Path)
    options = parser.parse_args()
    if options.command == "wheel":
        into_wheel(options.file, options.libcrypto)
    else:
        sys.stdout.write(of_environment(options.tree))
    return 0


if __name__ == "__main__":
    sys.exit(main())
