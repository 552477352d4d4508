"""Write the image as an OCI layout (image-spec 1.1), without an engine and without a registry.

    python oci.py TREE DIRECTORY [--sbom FILE]

Comes in: what tree.py wrote, the last stage of the Containerfile beside this file, and a bill of materials. Goes out: a directory
with one layer, its configuration and its manifest, named `latest`; the same bytes for the same tree and SOURCE_DATE_EPOCH. It must
never give a file another owner than root, nor say of the image what the Containerfile does not say.
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import platform
import re
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CONTAINERFILE = Path(__file__).resolve().parent / "Containerfile"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_TYPE = "application/vnd.oci.image"


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, argument) for each line of the last stage."""
    stage = re.sub(r"\\\n\s*", "", text.rpartition("\nFROM ")[2]).splitlines()[1:]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in stage if line and not line.startswith("#")]


def pairs(argument: str) -> dict[str, str]:
    """The values of LABEL or ENV."""
    return {name: quoted or plain for name, quoted, plain in re.findall(r'([\w.]+)=(?:"([^"]*)"|(\S+))', argument)}


def configuration(text: str) -> dict[str, Any]:
    """What an engine does with the image. HEALTHCHECK is not OCI's, so it is left out."""
    found: dict[str, Any] = {"Env": [], "Labels": {}, "ExposedPorts": {}, "WorkingDir": "/"}
    for name, argument in instructions(text):
        if name == "LABEL":
            found["Labels"] |= pairs(argument)
        elif name == "ENV":
            found["Env"] += [f"{one}={value}" for one, value in pairs(argument).items()]
        elif name == "EXPOSE":
            found["ExposedPorts"] |= {port: {} for port in argument.split()}
        elif name in ("ENTRYPOINT", "CMD"):
            found[name.capitalize()] = json.loads(argument)
        elif name in ("USER", "STOPSIGNAL"):
            found[{"USER": "User", "STOPSIGNAL": "StopSignal"}[name]] = argument
        elif name not in ("COPY", "HEALTHCHECK"):
            raise SystemExit(f"oci: {name} found in the Containerfile (expected: an instruction that this program knows)")
    return found


def layer(tree: Path, when: int) -> bytes:
    """The tree as a tar file: in order, of root, with one time."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = when
        return member

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(tree.rglob("*")):
            archive.add(path, str(path.relative_to(tree)), recursive=False, filter=plain)
    return file.getvalue()


class Layout:
    """An OCI layout that is being written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "blobs/sha256").mkdir(parents=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}\n')

    def add(self, media: str, content: bytes) -> dict[str, Any]:
        """Write a blob; its descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        (self.directory / "blobs/sha256" / digest).write_bytes(content)
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(content)}

    def add_json(self, media: str, content: dict[str, Any]) -> dict[str, Any]:
        """Write a document; its descriptor."""
        return self.add(media, json.dumps(content, sort_keys=True).encode())


def write(tree: Path, directory: Path, bill: bytes | None, when: int) -> None:
    """Write the layout."""
    layout = Layout(directory)
    tar = layer(tree, when)
    packed = layout.add(f"{_TYPE}.layer.v1.tar+gzip", gzip.compress(tar, 9, mtime=0))
    machine = platform.machine()
    config = {
        "created": datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "os": "linux",
        "architecture": _MACHINES.get(machine, machine), "config": configuration(CONTAINERFILE.read_text()),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}"]},
    }  # fmt: skip
    image = {"schemaVersion": 2, "mediaType": f"{_TYPE}.manifest.v1+json", "layers": [packed]}
    described = layout.add_json(f"{_TYPE}.manifest.v1+json", image | {"config": layout.add_json(f"{_TYPE}.config.v1+json", config)})
    manifests = [described | {"annotations": {"org.opencontainers.image.ref.name": "latest"}}]
    if bill is not None:
        # What belongs to the image, and points to it (image-spec: manifest, `subject`).
        kind = "application/vnd.cyclonedx+json"
        content = {"artifactType": kind, "config": layout.add("application/vnd.oci.empty.v1+json", b"{}"), "subject": described}
        beside = layout.add_json(f"{_TYPE}.manifest.v1+json", image | content | {"layers": [layout.add(kind, bill)]})
        manifests.append(beside | {"artifactType": kind})
    index = {"schemaVersion": 2, "mediaType": f"{_TYPE}.index.v1+json", "manifests": manifests}
    (directory / "index.json").write_text(json.dumps(index, sort_keys=True))


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Write an image as an OCI layout.", allow_abbrev=False)
    parser.add_argument("tree", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--sbom", type=Path)
    options = parser.parse_args()
    if options.directory.exists():
        print(f"oci: {options.directory} exists (expected: a directory to be made)", file=sys.stderr)
        return 2
    bill = options.sbom.read_bytes() if options.sbom else None
    write(options.tree, options.directory, bill, int(os.environ.get("SOURCE_DATE_EPOCH", "0")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
