"""What deploy/ says holds: the image's tree serves the time in a container as its file says, and Kubernetes takes manifests."""

import hashlib
import importlib.metadata
import json
import os
import re
import runpy
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import tsq
from tests.support import kustomized
from tests.support.chronyd import until
from tests.support.namespaces import Pair, inside, need_root_and, pair
from tests.support.processes import BIN
from tsq.cli.server import _parser as server_parser
from tsq.quic.quic_lb import QuicLb

ROOT = Path(__file__).resolve().parent.parent
IMAGE = ROOT / "deploy" / "image"
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ["base", "overlays/lab", "overlays/edge"]
# The oldest and the newest release whose schemas are at hand that an operator may have.
RELEASES = ["1.29", "1.34"]
KUBECTL = shutil.which("kubectl")
ADDRESS, CLIENT = "192.0.2.1", "192.0.2.10"


# The image


def instructions() -> dict[str, str]:
    """The last stage of the Containerfile: instruction and its argument."""
    text = (IMAGE / "Containerfile").read_text().rpartition("\nFROM ")[2]
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    assert lines[0] == "scratch"
    return dict(line.split(" ", 1) for line in lines[1:] if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image holds, made as its build stage makes it."""
    there = tmp_path_factory.mktemp("image") / "tree"
    subprocess.run([sys.executable, IMAGE / "tree.py", there], check=True, capture_output=True, timeout=120)
    return there


def test_the_image_holds_nothing_that_a_server_does_not_need(tree):
    programs = {path.name for path in (tree / "usr/bin").iterdir()}
    entries = importlib.metadata.distribution("tsq-time").entry_points.select(group="console_scripts")
    assert programs == {"python3"} | {entry.name for entry in entries}
    unwanted = (".pyx", ".h", ".a"), ("pip", "setuptools", "pytest")
    assert not [path for path in tree.rglob("*") if path.suffix in unwanted[0] or path.name in unwanted[1]]
    # Nothing that its user could change, and no program that gives privileges.
    for path in tree.rglob("*"):
        if not path.is_symlink() and path.name != "tmp":
            assert not path.stat().st_mode & 0o7022, path
    assert sum(path.stat().st_size for path in tree.rglob("*") if path.is_file() and not path.is_symlink()) < 64 << 20


def test_the_build_stage_makes_this_tree_from_files_that_exist():
    first = (IMAGE / "Containerfile").read_text().partition("\nFROM scratch")[0]
    copied = [word for line in re.findall(r"^COPY (.*) /source", first, re.MULTILINE) for word in line.split()]
    allowed = {line[1:] for line in (IMAGE / "Containerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied) == allowed
    assert all((ROOT / name).exists() for name in copied)
    assert "tree.py /tree" in first
    assert instructions()["COPY"] == "--from=build /tree/ /"


def bundle(directory: Path, tree: Path, namespace: str, certificates: Any) -> None:
    """An OCI bundle for the tree: read-only, without any capability, as what the Containerfile says."""
    said = instructions()
    user, group = map(int, said["USER"].split(":"))
    mounts = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    etc = directory / "etc"
    etc.mkdir()
    for source, name in ((certificates.certificate, "cert.pem"), (certificates.key, "key.pem")):
        shutil.copy(source, etc / name)
        (etc / name).chmod(0o440)
        os.chown(etc / name, 0, group)
    mounts.append({"destination": "/etc/tsq", "type": "bind", "source": str(etc), "options": ["bind", "ro"]})
    everything = ("bounding", "effective", "inheritable", "permitted", "ambient")
    names = [{"type": kind} for kind in ("mount", "pid", "ipc", "uts")]
    (directory / "config.json").write_text(json.dumps({
        "ociVersion": "1.0.2",
        "root": {"path": str(tree), "readonly": True},
        "process": {
            "user": {"uid": user, "gid": group}, "cwd": "/", "noNewPrivileges": True,
            "args": [*json.loads(said["ENTRYPOINT"]), *json.loads(said["CMD"]), "--local-stratum", "1"],
            "env": said["ENV"].split(), "capabilities": {kind: [] for kind in everything},
        },
        "mounts": mounts,
        "linux": {
            "namespaces": [*names, {"type": "network", "path": f"/var/run/netns/{namespace}"}],
            "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"],
        },
    }))


@pytest.fixture(scope="module")
def network() -> Iterator[Pair]:
    with pair([ADDRESS], [CLIENT]) as made:
        yield made


def crun_at(directory: Path) -> list[str]:
    """crun without control groups. It looks for them all the same, and refuses a mixture of their two versions."""
    own_view = ["unshare", "--mount", "sh", "-c", 'mount -t cgroup2 none /sys/fs/cgroup && exec "$@"', "sh"]
    return [*own_view, "crun", "--root", str(directory / "state"), "--cgroup-manager=disabled"]


@contextmanager
def container(directory: Path) -> Iterator[str]:
    """The bundle's container, run by crun; its name."""
    name = f"tsq-{secrets.token_hex(4)}"
    crun = crun_at(directory)
    command = [*crun, "run", "--bundle", str(directory), name]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until(lambda: b"listening" in (directory / "log").read_bytes() or process.poll() is not None, 60)
        assert process.poll() is None, (directory / "log").read_text()
        yield name
        subprocess.run([*crun, "kill", name, "TERM"], check=True, timeout=60)
        assert process.wait(60) == 0, (directory / "log").read_text()
    finally:
        if process.poll() is None:
            subprocess.run([*crun, "kill", name, "KILL"], check=False, timeout=60)
            process.kill()
            process.wait()


def test_a_container_of_the_image_answers_read_only_as_nobody_without_capabilities(tree, network, certificates, tmp_path):
    need_root_and("crun")
    said = instructions()
    bundle(tmp_path, tree, network.one, certificates)
    crun = crun_at(tmp_path)
    with container(tmp_path) as name:
        client = [
            *inside(network.other), str(BIN / "tsq-client"), f"{ADDRESS}:4433", "--server-name", "localhost",
            "--ca", str(certificates.authority), "--count", "3", "--interval", "0.01", "--json",
        ]  # fmt: skip
        done = subprocess.run(client, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        (host,) = json.loads(done.stdout)["hosts"]
        assert host["stratum"] == 1
        state = subprocess.run([*crun, "state", name], capture_output=True, text=True, check=True, timeout=60).stdout
        pid = json.loads(state)["pid"]
        status = Path(f"/proc/{pid}/status").read_text()
        user, group = said["USER"].split(":")
        assert re.search(r"^Uid:\s+(.*)$", status, re.MULTILINE)[1].split() == [user] * 4
        assert re.search(r"^Gid:\s+(.*)$", status, re.MULTILINE)[1].split() == [group] * 4
        assert "NoNewPrivs:\t1" in status
        for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
            assert f"Cap{kind}:\t{0:016x}" in status
        with pytest.raises(OSError, match="Read-only"):
            Path("/proc", str(pid), "root", "new").write_text("")
        # The health check of the image, as an engine runs it.
        command = json.loads(said["HEALTHCHECK"].partition(" CMD ")[2])
        subprocess.run([*crun, "exec", name, *command], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def layout(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image as an OCI layout, with its bill of materials."""
    there = tmp_path_factory.mktemp("oci")
    command = [sys.executable, ROOT / "scripts/sbom.py", "environment", "--tree", tree]
    (there / "bill").write_bytes(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)
    for name in ("one", "two"):
        command = [sys.executable, IMAGE / "oci.py", tree, there / name, "--sbom", there / "bill"]
        subprocess.run(command, check=True, timeout=120, env={**os.environ, "SOURCE_DATE_EPOCH": "1790000000"})
    return there


def blob(layout: Path, descriptor: dict[str, Any]) -> bytes:
    content = (layout / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()
    assert (len(content), f"sha256:{hashlib.sha256(content).hexdigest()}") == (descriptor["size"], descriptor["digest"])
    return content


def test_the_layout_is_what_the_containerfile_says_and_the_same_twice(layout):
    one, two = (
        {path.relative_to(layout / name): path.read_bytes() for path in (layout / name).rglob("*") if path.is_file()}
        for name in ("one", "two")
    )
    assert one == two
    index = json.loads((layout / "one/index.json").read_text())
    manifest = json.loads(blob(layout / "one", index["manifests"][0]))
    config = json.loads(blob(layout / "one", manifest["config"]))["config"]
    said = instructions()
    assert config["Entrypoint"] == json.loads(said["ENTRYPOINT"])
    assert config["Cmd"] == json.loads(said["CMD"])
    assert (config["User"], config["StopSignal"]) == (said["USER"], said["STOPSIGNAL"])
    assert " ".join(config["Env"]) == said["ENV"]
    assert set(config["ExposedPorts"]) == set(said["EXPOSE"].split())
    assert config["Labels"]["org.opencontainers.image.licenses"] == "MIT"


def test_the_bill_of_materials_names_what_is_in_the_image(layout, tree):
    index = json.loads((layout / "one/index.json").read_text())
    manifest = json.loads(blob(layout / "one", index["manifests"][1]))
    assert manifest["subject"]["digest"] == index["manifests"][0]["digest"]
    bill = json.loads(blob(layout / "one", manifest["layers"][0]))
    named = {(one["name"], one["version"]) for one in bill["components"]}
    installed = {path.name.removesuffix(".dist-info") for path in tree.glob("usr/lib/python3.*/site-packages/*.dist-info")}
    for name in ("aioquic", "cryptography", "certifi"):
        assert (name, importlib.metadata.version(name)) in named
    assert installed <= {f"{name.replace('-', '_')}-{version}" for name, version in named} | {f"tsq_time-{tsq.__version__}"}
    if shutil.which("dpkg-query"):
        assert "libc6" in {name for name, _ in named}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None


def test_a_foreign_program_unpacks_the_image_and_it_runs(layout, tmp_path):
    need_root_and("crun", "umoci")
    unpack = ["umoci", "unpack", "--image", f"{layout / 'one'}:latest", tmp_path / "bundle"]
    subprocess.run(unpack, check=True, capture_output=True, timeout=120)
    config = json.loads((tmp_path / "bundle/config.json").read_text())
    process = config["process"]
    assert (process["user"]["uid"], process["args"][0]) == (65532, "/usr/bin/tsq-server")
    process |= {"terminal": False, "args": ["/usr/bin/tsq-client", "--version"]}
    config["linux"]["namespaces"] = [{"type": kind} for kind in ("mount", "pid", "ipc", "uts", "network")]
    for name in ("cgroupsPath", "resources"):
        config["linux"].pop(name, None)
    config["mounts"] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    config["root"]["readonly"] = True
    (tmp_path / "bundle/config.json").write_text(json.dumps(config))
    command = [*crun_at(tmp_path), "run", "--bundle", str(tmp_path / "bundle"), f"tsq-{secrets.token_hex(4)}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"tsq-client {tsq.__version__}\n", done.stderr


# Kubernetes


def kustomize(directory: Path) -> list[dict[str, Any]]:
    """The resources of a kustomization, made by kubectl or, where it is missing, by tests/support/kustomized.py."""
    if KUBECTL is None:
        return kustomized.rendered(directory)
    done = subprocess.run([KUBECTL, "kustomize", directory], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(params=OVERLAYS)
def rendered(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The resources of the base or an overlay, as kustomize makes them."""
    return kustomize(KUBERNETES / request.param)


def of_kind(resources: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [resource for resource in resources if resource["kind"] == kind]


def the_server(resources: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(pod, container) of the DaemonSet."""
    (server,) = of_kind(resources, "DaemonSet")
    pod = server["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


@pytest.mark.parametrize("release", RELEASES)
def test_each_resource_fits_the_schema_of_kubernetes(rendered, release):
    for resource in rendered:
        if resource["kind"] != "ServiceMonitor":
            kubernetes_validate.validate(resource, release, strict=True)


def test_a_wrong_manifest_does_not_fit(rendered):
    (server,) = of_kind(rendered, "DaemonSet")
    server["spec"]["template"]["spec"]["containers"][0]["readinessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(server, RELEASES[-1], strict=True)


def test_the_server_has_no_privilege(rendered):
    pod, container = the_server(rendered)
    assert pod["securityContext"].items() >= {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532}.items()
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


def test_all_that_is_named_exists(rendered):
    """Selectors select the server, ports and volumes have the names that are used, and what is mounted is there."""
    (server,) = of_kind(rendered, "DaemonSet")
    pod, container = the_server(rendered)
    labels = server["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"]: port for port in container["ports"]}
    services = of_kind(rendered, "Service")
    selectors = [service["spec"]["selector"] for service in services]
    selectors += [resource["spec"]["selector"]["matchLabels"] for resource in of_kind(rendered, "PodDisruptionBudget")]
    selectors += [resource["spec"]["podSelector"]["matchLabels"] for resource in of_kind(rendered, "NetworkPolicy")]
    assert len(selectors) == 4
    selectors.append(server["spec"]["selector"]["matchLabels"])
    assert all(selector and selector.items() <= labels.items() for selector in selectors)
    for service in services:
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]]["protocol"] == port["protocol"]
    (policy,) = of_kind(rendered, "NetworkPolicy")
    for rule in policy["spec"]["ingress"]:
        for port in rule["ports"]:
            assert ports[port["port"]]["protocol"] == port["protocol"]
    for monitor in of_kind(rendered, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        (chosen,) = [service for service in services if wanted.items() <= service["metadata"].get("labels", {}).items()]
        assert {end["port"] for end in monitor["spec"]["endpoints"]} <= {port["name"] for port in chosen["spec"]["ports"]}
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    maps = {resource["metadata"]["name"] for resource in of_kind(rendered, "ConfigMap")}
    assert {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume} == maps
    assert {resource["metadata"].get("namespace", "tsq") for resource in rendered} == {"tsq"}


def test_the_service_keeps_the_addresses_of_clients(rendered):
    (service,) = [one for one in of_kind(rendered, "Service") if one["metadata"]["name"] == "tsq"]
    assert service["spec"].items() >= {"externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP"}.items()
    assert [(port["port"], port["protocol"]) for port in service["spec"]["ports"]] == [(443, "UDP")]


def test_tsq_server_takes_the_options(rendered):
    pod, container = the_server(rendered)
    values = server_parser().parse_args(container["args"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert [target.port for target in values.listen] == [ports["tsq"]]
    assert values.metrics.port == ports["health"]
    assert pod["terminationGracePeriodSeconds"] > values.drain + 5
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for path in filter(None, (values.cert, values.key, values.secret_file, values.self_signed)):
        assert any(Path(path).is_relative_to(mount) for mount in mounts), path


def test_probes_ask_pages_that_exist(rendered):
    _, container = the_server(rendered)
    asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert {kind: (probe["path"], probe["port"]) for kind, probe in asked.items()} == {
        "startup": ("/livez", "health"), "liveness": ("/livez", "health"), "readiness": ("/healthz", "health"),
    }  # fmt: skip


def test_patches_name_resources_and_files_that_exist():
    base = KUBERNETES / "base"
    files = yaml.safe_load((base / "kustomization.yaml").read_text())["resources"]
    assert {path.name for path in base.glob("*.yaml")} == {"kustomization.yaml", *files}
    known = {
        (resource["kind"], resource["metadata"]["name"])
        for name in files
        for resource in yaml.safe_load_all((base / name).read_text())
    }
    for overlay in OVERLAYS[1:]:
        directory = KUBERNETES / overlay
        kustomization = yaml.safe_load((directory / "kustomization.yaml").read_text())
        assert kustomization["resources"] == ["../../base"]
        named = {"kustomization.yaml", *(name for one in kustomization.get("configMapGenerator", []) for name in one["files"])}
        for patch in kustomization["patches"]:
            text = patch.get("patch") or (directory / patch["path"]).read_text()
            named |= {patch["path"]} if "path" in patch else set()
            target = patch.get("target")
            content = yaml.safe_load(text)
            assert (target["kind"], target["name"]) in known if target else (content["kind"], content["metadata"]["name"]) in known
        assert {path.name for path in directory.iterdir()} - {"__pycache__"} == named


@pytest.mark.parametrize(("address", "server_id"), [("192.0.2.17", "000211"), ("2001:db8::a1b:2c3d", "1b2c3d")])
def test_a_node_makes_its_server_id_from_its_address(address, server_id):
    options = runpy.run_path(str(KUBERNETES / "overlays/edge/start.py"))["options"]
    name, _, value = options({"NODE_ADDRESS": address, "QUIC_LB_NUMBER": "2"})[0].partition("=")
    assert name == "--quic-lb"
    configuration = QuicLb.parse(value)
    assert (configuration.number, configuration.server_id.hex()) == (2, server_id)
    server_parser().parse_args(["--self-signed", "x", *options({"NODE_ADDRESS": address})])


def test_start_gives_the_options_of_the_manifest_to_the_server(tmp_path):
    """The file that the pod runs, with a program in the server's place that prints what it gets."""
    text = (KUBERNETES / "overlays/edge/start.py").read_text()
    program = tmp_path / "program"
    program.write_text(f"#!{sys.executable}\nimport sys\nprint(*sys.argv[1:])\n")
    program.chmod(0o755)
    start = tmp_path / "start.py"
    start.write_text(text.replace('"/usr/bin/tsq-server"', repr(str(program))))
    done = subprocess.run(
        [sys.executable, "-I", start, "--drain=30"], capture_output=True, text=True, timeout=60, check=True,
        env={"NODE_ADDRESS": "192.0.2.17"},
    )  # fmt: skip
    assert done.stdout.split() == ["--drain=30", "--quic-lb=0:000211", "--quic-lb-key=/etc/tsq/quic-lb/key"]


# The manifests without kubectl


def named(resources: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Resources by kind and name: their order is of no matter."""
    result = {(resource["kind"], resource["metadata"]["name"]): resource for resource in resources}
    assert len(result) == len(resources)
    return result


# A kustomization with what an overlay may need and those of deploy/ do not all have.
SMALL_BASE = {
    "kustomization.yaml": """
namespace: one
resources: [server.yaml]
configMapGenerator:
  - name: words
    files: [words.txt]
labels:
  - pairs: {part-of: small}
images:
  - {name: registry.example:5000/server, newTag: "2"}
""",
    "words.txt": "a < b && b > c – θ\u2028\n",
    "server.yaml": """
apiVersion: v1
kind: Namespace
metadata: {name: other}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: server, labels: {old: "1"}}
spec:
  template:
    spec:
      nodeSelector: {a: "1", b: "2"}
      initContainers:
        - {name: first, image: "other:1"}
      containers:
        - name: server
          image: registry.example:5000/server
          args: [x, y]
          ports:
            - {name: udp, containerPort: 443, protocol: UDP}
            - {name: tcp, containerPort: 443, protocol: TCP}
          env:
            - {name: A, value: "1"}
            - {name: B, value: "2"}
            - {name: C, valueFrom: {configMapKeyRef: {name: words, key: words.txt}}}
          volumeMounts:
            - {name: words, mountPath: /words}
            - {name: old, mountPath: /old}
        - {name: beside, image: "registry.example:5000/server:1"}
      volumes:
        - {name: words, configMap: {name: words}}
        - {name: old, emptyDir: {}}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec:
  ports:
    - {name: tcp, port: 443, protocol: TCP}
    - {name: udp, port: 443, protocol: UDP}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: server}
spec: {maxUnavailable: 1}
""",
}
SMALL_OVERLAY = {
    "kustomization.yaml": """
namespace: two
resources: [../base]
labels:
  - pairs: {of: overlay}
patches:
  - path: server.yaml
  - patch: |-
      apiVersion: v1
      kind: Service
      metadata: {name: server}
      spec: {ports: [{port: 443, protocol: UDP, nodePort: 30443}]}
  - patch: |-
      apiVersion: policy/v1
      kind: PodDisruptionBudget
      metadata: {name: server}
      $patch: delete
  - target: {kind: DaemonSet, name: server}
    patch: |-
      - {op: replace, path: /spec/template/spec/containers/0/args/1, value: z}
      - {op: remove, path: /metadata/labels/old}
""",
    "server.yaml": """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: server}
spec:
  template:
    spec:
      nodeSelector: {a: null, c: "3"}
      containers:
        - name: server
          env:
            - {name: D, value: "4"}
            - {name: B, value: "5"}
            - {name: A, $patch: delete}
          ports:
            - {name: more, containerPort: 80, protocol: TCP}
            - {name: tcp, containerPort: 443, protocol: TCP, hostPort: 443}
          volumeMounts:
            - {mountPath: /old, $patch: delete}
            - {name: words, mountPath: /words, readOnly: true}
        - {name: beside, args: [q]}
      volumes:
        - {name: old, $patch: delete}
        - {name: new, emptyDir: {}}
""",
}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The small overlay."""
    for name, files in (("base", SMALL_BASE), ("overlay", SMALL_OVERLAY)):
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    return tmp_path / "overlay"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_without_kubectl_the_manifests_are_rendered_too(overlay, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "KUBECTL", None)
    made = named(kustomize(KUBERNETES / overlay))
    assert {("DaemonSet", "tsq-server"), ("Service", "tsq"), ("NetworkPolicy", "tsq-server")} <= made.keys()
    assert (("ServiceMonitor", "tsq-server") in made) == (overlay != "overlays/lab")


def test_the_renderer_merges_as_the_types_of_kubernetes_say(small):
    made = named(kustomized.rendered(small))
    (config_map,) = [name for kind, name in made if kind == "ConfigMap"]
    assert re.fullmatch(r"words-[a-z0-9]{10}", config_map)
    assert made.keys() == {("Namespace", "two"), ("ConfigMap", config_map), ("DaemonSet", "server"), ("Service", "server")}
    server = made["DaemonSet", "server"]
    assert server["metadata"] == {"name": "server", "namespace": "two", "labels": {"part-of": "small", "of": "overlay"}}
    pod = server["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"b": "2", "c": "3"}
    assert pod["volumes"] == [{"name": "new", "emptyDir": {}}, {"name": "words", "configMap": {"name": config_map}}]
    one, beside = pod["containers"]
    assert (one["image"], one["args"]) == ("registry.example:5000/server:2", ["x", "z"])
    assert [port["name"] for port in one["ports"]] == ["more", "udp", "tcp"]
    assert [(value["name"], value.get("value")) for value in one["env"]] == [("D", "4"), ("B", "5"), ("C", None)]
    assert one["env"][2]["valueFrom"]["configMapKeyRef"]["name"] == config_map
    assert one["volumeMounts"] == [{"name": "words", "mountPath": "/words", "readOnly": True}]
    assert beside == {"name": "beside", "image": "registry.example:5000/server:2", "args": ["q"]}
    tcp, udp = made["Service", "server"]["spec"]["ports"]
    assert (tcp, udp["nodePort"]) == ({"name": "tcp", "port": 443, "protocol": "TCP"}, 30443)


@pytest.mark.parametrize(
    ("file", "old", "new", "reason"),
    [
        ("kustomization.yaml", "namespace: two", "namePrefix: two-", "namePrefix is not supported"),
        ("kustomization.yaml", "[../base]", "[https://example.com/base]", "no file and no directory"),
        ("kustomization.yaml", "of: overlay}", "of: overlay}\n    includeSelectors: true", "includeSelectors is not supported"),
        ("kustomization.yaml", "op: remove", "op: test", "operation test is not supported"),
        ("kustomization.yaml", "kind: DaemonSet, name: server", "kind: DaemonSet, name: .*", "there are 0 of it"),
        ("kustomization.yaml", "$patch: delete", "$patch: replace", "replace is not supported"),
        ("kustomization.yaml", "port: 443, protocol: UDP,", "port: 443,", "without protocol"),
        ("server.yaml", "{name: server}", "{name: another}", "there are 0 of it"),
        ("server.yaml", "nodeSelector: {", "tolerations: [{key: x}]\n      nodeSelector: {", "tolerations in a DaemonSet is not"),
        ("server.yaml", 'value: "4"', "$retainKeys: [value]", "retainKeys"),
    ],
)
def test_what_the_renderer_does_not_know_is_an_error(small, file, old, new, reason):
    text = (small / file).read_text()
    assert old in text
    (small / file).write_text(text.replace(old, new))
    with pytest.raises(kustomized.Unsupported, match=reason):
        kustomized.rendered(small)


# Not skipped where kubectl is missing, as there is then nothing to compare with.
if KUBECTL is not None:

    @pytest.mark.parametrize("overlay", OVERLAYS)
    def test_the_renderer_makes_what_kubectl_makes(overlay):
        assert named(kustomized.rendered(KUBERNETES / overlay)) == named(kustomize(KUBERNETES / overlay))

    def test_the_renderer_merges_as_kubectl_does(small):
        assert named(kustomized.rendered(small)) == named(kustomize(small))
