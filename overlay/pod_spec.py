# SPDX-License-Identifier: Apache-2.0
"""What a Pod manifest says about its run: commands, environment, host name, limits. dfw/kube/pod.py reads the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from dfw.documents import Document, Node
from dfw.errors import PolicyError, Problem
from overlay.cgroup import Limits
from overlay.pod import PodSpec

_UNITS: Final = {
    "": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40
}  # fmt: skip
_QUANTITY: Final = re.compile(r"(\d+(?:\.\d+)?)([a-zA-Z]*)", re.ASCII)
_REFERENCE: Final = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")


def pod_specs(documents: Iterable[Document]) -> dict[str, PodSpec]:
    """The specs of all Pods by `namespace/name`. Raises PolicyError with everything that is wrong."""
    problems: list[Problem] = []
    found = {}
    for document, pod in _pods(documents):
        metadata = pod.get("metadata")
        name = _text(metadata, "name")
        if name:
            found[f"{_text(metadata, 'namespace') or 'default'}/{name}"] = _spec(document, pod, problems)
    if problems:
        raise PolicyError(problems)
    return found


def _pods(documents: Iterable[Document]) -> Iterator[tuple[Document, Node]]:
    """Pods, in lists too."""
    for document in documents:
        kind, items = _text(document.root, "kind"), document.root.get("items")
        if kind in ("List", "PodList") and items is not None and isinstance(items.value, list):
            for item in items.value:
                if (_text(item, "kind") or kind.removesuffix("List")) == "Pod":
                    yield document, item
        elif kind == "Pod":
            yield document, document.root


def _text(node: Node | None, key: str) -> str:
    found = None if node is None else node.get(key)
    return found.value if found is not None and isinstance(found.value, str) else ""


def _spec(document: Document, pod: Node, problems: list[Problem]) -> PodSpec:
    spec = pod.get("spec")
    if spec is None:
        return PodSpec()
    commands, environment = [], {}
    memory: float | None = None
    cpu: float | None = None
    for container in _items(spec.get("containers")):
        own = dict(_environment(document, container, problems))
        command = [*_words(document, container, "command", problems), *_words(document, container, "args", problems)]
        if container.get("command") is not None and command:
            commands.append(tuple(_expanded(word, own) for word in command))
        environment.update(own)
        resources = container.get("resources")
        limits = None if resources is None else resources.get("limits")
        if limits is not None:
            memory = _sum(memory, _quantity(document, limits.get("memory"), problems))
            cpu = _sum(cpu, _quantity(document, limits.get("cpu"), problems))
    limited = Limits(None if memory is None else int(memory), cpu)
    return PodSpec(tuple(commands), tuple(environment.items()), _text(spec, "hostname") or None, limited)


def _items(node: Node | None) -> list[Node]:
    return node.value if node is not None and isinstance(node.value, list) else []


def _words(document: Document, container: Node, key: str, problems: list[Problem]) -> list[str]:
    node = container.get(key)
    if node is None:
        return []
    words = [item.value for item in _items(node)]
    if not isinstance(node.value, list) or not all(isinstance(word, str) for word in words):
        problems.append(Problem(document.place(node, key), f"{key} is a list of texts"))
        return []
    return [word for word in words if isinstance(word, str)]


def _environment(document: Document, container: Node, problems: list[Problem]) -> Iterator[tuple[str, str]]:
    for item in _items(container.get("env")):
        name, value = _text(item, "name"), item.get("value")
        if not name or "=" in name:
            problems.append(Problem(document.place(item, "env"), "an environment variable has a name without ="))
        elif item.get("valueFrom") is not None:
            problems.append(Problem(document.place(item, "env"), "valueFrom needs a Supervisor; give a value"))
        elif value is not None and not isinstance(value.value, str):
            problems.append(Problem(document.place(value, "env"), "the value of an environment variable is a text"))
        else:
            yield name, "" if value is None else str(value.value)


def _expanded(word: str, environment: dict[str, str]) -> str:
    """$(NAME) in a command, as Kubernetes expands it; unknown names stay."""
    return _REFERENCE.sub(lambda match: environment.get(match[1], match[0]), word)


def _quantity(document: Document, node: Node | None, problems: list[Problem]) -> float | None:
    """A Kubernetes quantity as a number."""
    if node is None:
        return None
    value: Any = node.value
    match = _QUANTITY.fullmatch(str(value))
    if isinstance(value, bool) or match is None or match[2] not in _UNITS:
        problems.append(Problem(document.place(node, "limits"), f"{value!r} is no quantity such as 500m, 2 or 64Mi"))
        return None
    return float(match[1]) * _UNITS[match[2]]


def _sum(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else one + other
