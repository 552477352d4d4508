"""Kustomize in Python, where kubectl is missing: what deploy/kubernetes uses and nothing else.

All else that a kustomization or a patch holds is an error that names it. Where kubectl is there, tests/test_deploy.py compares.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]

_TOP = {"apiVersion", "kind", "namespace", "resources", "labels", "images", "configMapGenerator", "patches"}
_VERSION = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
_IN_NAMESPACE = {"ConfigMap", "DaemonSet", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceMonitor"}
# What tells the items of a list from each other.
_MERGE_KEYS = {"containers": "name", "initContainers": "name", "volumes": "name", "env": "name", "volumeMounts": "mountPath"}
_PORT_KEYS = {"DaemonSet": "containerPort", "Service": "port"}
_REFERENCES = {"configMap", "configMapRef", "configMapKeyRef"}


class Unsupported(ValueError):
    """What this renderer does not know, or what kustomize does not take either."""


def rendered(directory: Path) -> list[Resource]:
    """The resources of the kustomization in a directory, as `kubectl kustomize` makes them, in no certain order."""
    resources, generated = _gathered(directory)
    suffixes = {map_["metadata"]["name"]: _suffix(map_) for map_ in resources if _identity(map_) in generated}
    for resource in resources:
        metadata = resource["metadata"]
        if _identity(resource) in generated:
            metadata["name"] += suffixes[metadata["name"]]
        for within in _dicts(resource):
            for reference in _REFERENCES & within.keys():
                target = within[reference]
                if isinstance(target, dict) and target.get("name") in suffixes:
                    target["name"] += suffixes[target["name"]]
    return resources


def _gathered(directory: Path) -> tuple[list[Resource], set[tuple[str, str]]]:
    """(resources, those that are generated) of a kustomization, with those that it builds on; without suffixes of names."""
    file = directory / "kustomization.yaml"
    said = yaml.safe_load(file.read_text())
    _only(said, _TOP, str(file))
    for key, value in _VERSION.items():
        if said.get(key, value) != value:
            raise Unsupported(f"{file}: {key} {said[key]} is not supported")
    resources: list[Resource] = []
    generated = set()
    for name in said.get("resources", []):
        path = directory / name
        if path.is_dir():
            more, more_generated = _gathered(path)
            resources += more
            generated |= more_generated
        elif path.is_file():
            resources += yaml.safe_load_all(path.read_text())
        else:
            raise Unsupported(f"{file}: {name} is no file and no directory")
    for generator in said.get("configMapGenerator", []):
        resources.append(_config_map(directory, generator))
        generated.add(_identity(resources[-1]))
    identities = [_identity(resource) for resource in resources]
    if twice := {f"{kind} {name}" for kind, name in identities if identities.count((kind, name)) > 1}:
        raise Unsupported(f"{file}: more than one {', '.join(sorted(twice))}")
    if unknown := {resource["kind"] for resource in resources} - _IN_NAMESPACE - {"Namespace"}:
        raise Unsupported(f"{file}: the kind {', '.join(sorted(unknown))} is not supported")
    _transform(resources, directory, said)
    return resources, generated


def _transform(resources: list[Resource], directory: Path, said: dict[str, Any]) -> None:
    """What a kustomization changes, in the order of kustomize: patches see neither its namespace nor its labels and images."""
    for patch in said.get("patches", []):
        _patch(resources, directory, patch)
    if namespace := said.get("namespace"):
        for resource in resources:
            resource["metadata"]["name" if resource["kind"] == "Namespace" else "namespace"] = namespace
    for labels in said.get("labels", []):
        _only(labels, {"pairs"}, f"{directory}: labels")
        for resource in resources:
            resource["metadata"].setdefault("labels", {}).update(labels["pairs"])
    for image in said.get("images", []):
        _only(image, {"name", "newName", "newTag"}, f"{directory}: images")
        for resource in resources:
            _set_image(resource, image)


def _only(given: dict[str, Any], known: set[str], where: str) -> None:
    if unknown := given.keys() - known:
        raise Unsupported(f"{where}: {', '.join(sorted(unknown))} is not supported")


def _identity(resource: Resource) -> tuple[str, str]:
    return resource["kind"], resource["metadata"]["name"]


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    """A value's dictionaries, at any depth."""
    if isinstance(value, dict):
        yield value
    for below in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from _dicts(below)


# Generated maps


def _config_map(directory: Path, generator: dict[str, Any]) -> Resource:
    _only(generator, {"name", "files"}, f"{directory}: configMapGenerator")
    data = {}
    for file in generator["files"]:
        if "=" in file:
            raise Unsupported(f"{directory}: configMapGenerator: {file}: a key for a file is not supported")
        data[Path(file).name] = (directory / file).read_text()
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}


def _suffix(config_map: Resource) -> str:
    """What kustomize adds to the name of a map that it generates: a hash of what it holds, as Go writes JSON."""
    content = {"data": config_map["data"], "kind": "ConfigMap", "name": ""}
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return "-" + hashlib.sha256(text.encode()).hexdigest()[:10].translate(str.maketrans("013ae", "ghkmt"))


# Images


def _set_image(resource: Resource, image: dict[str, str]) -> None:
    if not all(isinstance(value, str) for value in image.values()):
        raise Unsupported(f"images: {image} has other values than text")
    for within in _dicts(resource):
        for container in [*within.get("containers", []), *within.get("initContainers", [])]:
            parts = re.fullmatch(r"([^@]+?)(?::([\w.-]+))?", container["image"])
            if parts is None:
                raise Unsupported(f"the image {container['image']}")
            if parts[1] == image["name"]:
                tag = image.get("newTag", parts[2])
                container["image"] = image.get("newName", parts[1]) + (f":{tag}" if tag else "")


# Patches


def _patch(resources: list[Resource], directory: Path, patch: dict[str, Any]) -> None:
    where = f"{directory}: patches"
    _only(patch, {"path", "patch", "target"}, where)
    if ("path" in patch) == ("patch" in patch):
        raise Unsupported(f"{where}: one with both or none of path and patch")
    content = yaml.safe_load((directory / patch["path"]).read_text() if "path" in patch else patch["patch"])
    target = patch.get("target")
    if isinstance(content, list) != (target is not None):
        raise Unsupported(f"{where}: operations without a target, or a target for what is merged")
    if target is not None:
        _only(target, {"kind", "name"}, f"{where}: target")
        index = _found(resources, lambda one: _identity(one) == (target["kind"], target["name"]), f"{where}: {target}")
        for operation in content:
            _operate(resources[index], operation)
        return
    if "namespace" in content["metadata"]:
        raise Unsupported(f"{where}: a namespace in the patch of {' '.join(_identity(content))}")

    def is_it(one: Resource) -> bool:
        return (one["apiVersion"], *_identity(one)) == (content["apiVersion"], *_identity(content))

    index = _found(resources, is_it, f"{where}: {' '.join(_identity(content))}")
    if _deletes(content):
        del resources[index]
    else:
        resources[index] = _merged(resources[index], content, content["kind"])


def _found(items: list[Any], is_it: Callable[[Any], bool], what: str) -> int:
    """Where the only item is for which that holds."""
    indices = [index for index, item in enumerate(items) if is_it(item)]
    if len(indices) != 1:
        raise Unsupported(f"{what}: there are {len(indices)} of it")
    return indices[0]


def _operate(resource: Resource, operation: dict[str, Any]) -> None:
    """One operation of a JSON patch (RFC 6902)."""
    if operation["op"] not in {"replace", "remove"}:
        raise Unsupported(f"the operation {operation['op']} is not supported")
    *above, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].removeprefix("/").split("/")]
    place: Any = resource
    for part in above:
        place = place[int(part) if isinstance(place, list) else part]
    key = int(last) if isinstance(place, list) else last
    # Both need what is there.
    place[key]
    if operation["op"] == "replace":
        place[key] = operation["value"]
    else:
        del place[key]


def _deletes(patch: dict[str, Any]) -> bool:
    """Whether a patch removes what it names. Other directives are errors."""
    for key, value in patch.items():
        if key.startswith("$") and (key, value) != ("$patch", "delete"):
            raise Unsupported(f"{key}: {value} is not supported")
    return "$patch" in patch


def _merged(base: dict[str, Any], patch: dict[str, Any], kind: str) -> dict[str, Any]:
    """A strategic merge: dictionaries by key, lists of dictionaries by what tells their items apart; all else is replaced."""
    result = dict(base)
    for key, value in patch.items():
        if value is None or (isinstance(value, dict) and _deletes(value)):
            result.pop(key, None)
        elif isinstance(value, dict):
            below = result.get(key)
            result[key] = _merged(below if isinstance(below, dict) else {}, value, kind)
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            result[key] = _merged_list(result.get(key) or [], value, key, kind)
        else:
            result[key] = value
    return result


def _merged_list(base: list[Any], patch: list[Any], name: str, kind: str) -> list[Any]:
    """The items of the patch in their order, merged with those of the base; then the others of the base.

    Of ports, which two keys tell apart, those of the base keep their places behind the new ones.
    """
    if kind not in _PORT_KEYS or name not in {*_MERGE_KEYS, "ports"}:
        raise Unsupported(f"a patch of the list {name} in a {kind} is not supported")
    # One number may be there for both UDP and TCP.
    keys = (_PORT_KEYS[kind], "protocol") if name == "ports" else (_MERGE_KEYS[name],)

    def by_key(items: list[Any]) -> dict[tuple[Any, ...], dict[str, Any]]:
        for item in items:
            if missing := set(keys) - item.keys():
                raise Unsupported(f"an item without {', '.join(sorted(missing))} in the list {name} of a {kind}")
        result = {tuple(item[key] for key in keys): item for item in items}
        if len(result) < len(items):
            raise Unsupported(f"two items with the same {' and '.join(keys)} in the list {name} of a {kind}")
        return result

    old, new = by_key(base), by_key(patch)
    order = {**new, **old} if name != "ports" else [*(key for key in new if key not in old), *old]
    return [_merged(old.get(key, {}), new.get(key, {}), kind) for key in order if not _deletes(new.get(key, {}))]
