# SPDX-License-Identifier: Apache-2.0
"""Kubernetes objects as a decoder of the API's JSON gives them -> changes of a PolicyState.

The readers are those of manifests, and so are the meanings and the errors. What makes it fast is that they read each
thing once: the specs of most policies differ from others in label selectors and CIDRs only, so a spec is read with
marks in their places, and the template that this gives is stamped for every policy of the same shape. Whatever is not
plain (and whatever is wrong) goes through the readers object by object.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from dfw.assign import PODS_SEGMENT, free_mac
from dfw.documents import document_of
from dfw.errors import PolicyError, Problem, UnsupportedError
from dfw.fields import Cursor, Read, mapping
from dfw.findings import Finding
from dfw.incremental import Change, Stamp, Thing, collector_paused
from dfw.incremental.marks import Hole, Marks
from dfw.incremental.templates import Intern, PolicyTemplate, template_compile
from dfw.inventory import workload_address
from dfw.kube.cluster_network_policy import cluster_network_policy_read
from dfw.kube.kinds import KUBE_KINDS
from dfw.kube.metadata import (
    DEFAULT_NAMESPACE,
    METADATA,
    STAGED,
    is_label_value,
    is_object_name,
    label_key_problem,
    namespace_name,
    object_name,
)
from dfw.kube.namespace import namespace_read
from dfw.kube.network_policy import network_policy_read
from dfw.kube.peers import cidr
from dfw.kube.pod import ENDED, SPEC, named_ports, pod_read
from dfw.kube.security_policy import security_policy_read
from dfw.kube.selector import selector
from dfw.model import NAMESPACE_NAME_LABEL, Address, NamedPort, Namespace, Policy, Port

_POLICIES: Mapping[str, tuple[str, bool, Callable[[Cursor, list[Finding]], tuple[Policy, ...]]]] = {
    "NetworkPolicy": ("np", True, network_policy_read),
    "SecurityPolicy": ("sp", True, lambda cursor, findings: security_policy_read(cursor)),
    "ClusterNetworkPolicy": ("cnp", False, lambda cursor, findings: cluster_network_policy_read(cursor)),
}
# A selector that is nothing but labels, and a block of addresses without exceptions. Inside of a JSON text's strings
# quotes are escaped, so that neither can begin in one.
_HOLE = re.compile(
    rb'(\{"matchLabels":\{"[^"\\]*":"[^"\\]*"(?:,"[^"\\]*":"[^"\\]*")*\}\}|\{"cidr":"[^"\\]*"\})',
)
_READ_OF_SPEC = tuple(key for key in SPEC if key != "nodeName")
_MANY = 100_000  # of each kind of thing that is remembered
_STANDIN = "standin"
_encode = msgspec.json.Encoder().encode


class _NotPlain(Exception):
    """The quick way does not apply; the readers decide."""


class DecodedReader:
    """Reads one object after the other; remembers what it has read. `segment`: of pods, none of whom says one."""

    def __init__(self, intern: Intern, segment: str = PODS_SEGMENT) -> None:
        self.intern = intern
        self.segment = segment
        self._templates: dict[tuple[object, ...], PolicyTemplate] = {}
        self._holes: dict[bytes, Hole] = {}
        self._names: dict[str, str] = {}
        self._nodes: dict[str, str] = {}
        self._label_keys: set[str] = set()
        self._label_values: set[str] = set()
        self._specs: dict[bytes, tuple[bool, tuple[NamedPort, ...]]] = {}
        self._macs: dict[str, str] = {}
        self._scalar = _cursor("")
        token = secrets.token_hex(8)  # nobody can write a mark into a policy
        self._mark_label = f"mark.palisade.internal/{token}"
        self._mark_block = f"fd{token[:2]}:{token[2:6]}:{token[6:10]}:{token[10:14]}"

    def read(self, decoded: Mapping[str, Any]) -> Thing | None:
        """The thing that an object is; None for a pod that has no vNIC. Raises PolicyError."""
        try:
            kind, metadata = decoded["kind"], decoded["metadata"]
            if kind in _POLICIES and (metadata.get("annotations") or {}).get(STAGED, "false") != "false":
                raise UnsupportedError("incremental", f"staged policies ({kind} {metadata['name']})")
            # The three that are asked for here, and no others but these two.
            plain = 3 + ("spec" in decoded) + ("status" in decoded)
            if len(decoded) != plain or decoded["apiVersion"] not in KUBE_KINDS[kind]:
                raise _NotPlain
            if kind == "Pod":
                return self._pod(metadata, decoded.get("spec"), decoded.get("status"))
            if kind == "Namespace":
                return self._namespace(metadata)
            return self._policy(kind, metadata, decoded["spec"])
        except (_NotPlain, KeyError, TypeError, AttributeError):
            return self._read_slowly(decoded)

    def read_all(self, objects: Iterable[Mapping[str, Any]]) -> list[Change]:
        """The changes that many objects are. Raises PolicyError with the problems of all of them."""
        changes: list[Change] = []
        problems: list[Problem] = []
        with collector_paused():
            for decoded in objects:
                try:
                    change = self.read(decoded)
                except PolicyError as error:
                    problems += error.problems
                else:
                    if change is not None:
                        changes.append(change)
        if problems:
            raise PolicyError(problems)
        return changes

    # The quick way.

    def _meta(self, metadata: Mapping[str, Any], namespaced: bool) -> tuple[str, str]:
        name, namespace = metadata["name"], metadata.get("namespace")
        plain = 1 + ("namespace" in metadata) + ("labels" in metadata)
        if not is_object_name(name) or (len(metadata) != plain and not metadata.keys() <= METADATA.keys()):
            raise _NotPlain
        if not namespaced:
            if namespace is not None:
                raise _NotPlain
            return name, ""
        if namespace is None:
            return name, DEFAULT_NAMESPACE
        known = self._names.get(namespace)
        if known is None:
            known = self._remember(self._names, namespace, self._clean(namespace_name, namespace))
        return name, known

    def _labels(self, labels: Mapping[str, Any] | None) -> Mapping[str, str]:
        if labels is None:
            return {}
        keys, values = self._label_keys, self._label_values
        for key, value in labels.items():
            if key not in keys:
                if label_key_problem(key) is not None:
                    raise _NotPlain
                keys.add(key)
            if value not in values:
                if not is_label_value(value):
                    raise _NotPlain
                if len(values) >= _MANY:
                    values.clear()
                values.add(value)
        return labels

    def _namespace(self, metadata: Mapping[str, Any]) -> Namespace:
        name, _ = self._meta(metadata, False)
        labels = self._labels(metadata.get("labels"))
        if labels.get(NAMESPACE_NAME_LABEL, name) != name:
            raise _NotPlain
        return Namespace(name, {**labels, NAMESPACE_NAME_LABEL: name})

    def _pod(self, metadata: Mapping[str, Any], spec: Mapping[str, Any] | None, status: Any) -> Port | None:
        name, namespace = self._meta(metadata, True)
        labels = self._labels(metadata.get("labels"))
        node, is_on_host, ports = self._pod_spec({} if spec is None else spec)
        phase, ips = self._pod_status({} if status is None else status)
        if is_on_host or phase in ENDED:
            return None
        return self._port(f"{namespace}/{name}", namespace, labels, node, ips, ports)

    def _port(
        self,
        name: str,
        namespace: str,
        labels: Mapping[str, str],
        node: str | None,
        ips: tuple[Address, ...],
        ports: tuple[NamedPort, ...],
    ) -> Port:
        mac = free_mac(name, self._macs)
        self._macs[mac] = name
        return Port(
            name=name,
            host=node or "",
            segment=self.segment,
            machine=name,
            mac=mac,
            ips=ips,
            labels=labels,
            namespace=namespace,
            named_ports=ports,
        )

    def _pod_spec(self, spec: Mapping[str, Any]) -> tuple[str | None, bool, tuple[NamedPort, ...]]:
        node = spec.get("nodeName")
        if node is not None and node not in self._nodes:
            self._remember(self._nodes, node, self._clean(object_name, node))
        read = list(map(spec.get, _READ_OF_SPEC))
        text = _encode(read)
        known = self._specs.get(text)
        if known is None:
            cursor = _cursor(dict(zip(_READ_OF_SPEC, read, strict=True)))
            fields = mapping(cursor, SPEC)
            if fields is None or cursor.problems:
                raise _NotPlain
            known = self._remember(self._specs, text, (fields["hostNetwork"], tuple(named_ports(fields))))
        return node, *known

    def _pod_status(self, status: Mapping[str, Any]) -> tuple[str | None, tuple[Address, ...]]:
        phase, first, others = status.get("phase"), status.get("podIP"), status.get("podIPs")
        if others is None:
            others = []
        if type(others) is not list or not (phase is None or (isinstance(phase, str) and 0 < len(phase) <= 1024)):
            raise _NotPlain
        try:
            if first is not None and (not others or (len(others) == 1 and others[0] == {"ip": first})):
                return phase, (workload_address(first),)
        except ValueError:
            raise _NotPlain from None
        texts = [] if first is None else [first]
        for item in others:
            if item.keys() != {"ip"}:
                raise _NotPlain
            if item["ip"] != first:
                texts.append(item["ip"])
        if len(others) > 2 or not all(isinstance(text, str) for text in texts):
            raise _NotPlain
        try:
            ips = tuple(map(workload_address, texts))
        except ValueError:
            raise _NotPlain from None
        return phase, ips if len(ips) < 2 else (ips[0], *(ip for ip in ips[1:] if first is None or ip != ips[0]))

    def _policy(self, kind: str, metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> Stamp:
        path, namespaced, _ = _POLICIES[kind]
        name, namespace = self._meta(metadata, namespaced)
        self._labels(metadata.get("labels"))
        if spec is None:
            raise _NotPlain
        pieces = _HOLE.split(_encode(spec))
        texts = pieces[1::2]
        key = (path, *pieces[::2], *(map(texts.index, texts) if len(texts) > 1 else ()))
        holes = self._holes
        found = tuple([holes.get(text) or self._hole(text) for text in texts])
        template = self._templates.get(key)
        if template is None:
            template = self._remember(self._templates, key, self._template(kind, pieces))
        return Stamp(template, namespace, name, found)

    def _hole(self, text: bytes) -> Hole:
        """The value of a hole, read by the reader of its kind."""
        value = msgspec.json.decode(text)
        read, plain = (cidr, value["cidr"]) if "cidr" in value else (selector, value)
        hole = Hole(self._clean(read, plain))
        self._remember(self._holes, text, hole)
        return hole

    def _template(self, kind: str, pieces: list[bytes]) -> PolicyTemplate:
        """Read a policy with marks in its holes; equal holes have equal marks, for equal peers are one."""
        texts = pieces[1::2]
        plain, marks = [], []
        for text in texts:
            number = texts.index(text)
            if text.startswith(b'{"cidr"'):
                block: Any = {"cidr": f"{self._mark_block}::{number:x}/128"}
                read, value = cidr, block["cidr"]
            else:
                block = {"matchLabels": {self._mark_label: f"m{number}"}}
                read, value = selector, block
            marks.append(self._clean(read, value))
            plain.append(_encode(block))
        marked = list(pieces)
        marked[1::2] = plain
        spec = msgspec.json.decode(b"".join(marked))
        path, namespaced, policy_read = _POLICIES[kind]
        metadata = {"name": _STANDIN, **({"namespace": _STANDIN} if namespaced else {})}
        cursor = _cursor({"metadata": metadata, "spec": spec})
        policies = policy_read(cursor, [])
        if cursor.problems:
            raise _NotPlain
        prefix = f"{path}/{_STANDIN}/{_STANDIN}" if namespaced else f"{path}/{_STANDIN}"
        return template_compile(policies, self.intern, prefix=prefix, marks=Marks(marks))

    def _clean(self, read: Read, value: Any) -> Any:
        """What a reader makes of a value that nothing is wrong with."""
        if type(value) is str:
            cursor = self._scalar  # the same one for every text: readers keep none
            cursor.node.value = value
        else:
            cursor = _cursor(value)
        found = read(cursor)
        if cursor.problems or found is None:
            cursor.problems.clear()
            raise _NotPlain
        return found

    def _remember(self, known: dict[Any, Any], key: Any, value: Any) -> Any:
        if len(known) >= _MANY:
            known.clear()
        known[key] = value
        return value

    # The whole way.

    def _read_slowly(self, decoded: Mapping[str, Any]) -> Thing | None:
        if not isinstance(decoded, dict):
            raise PolicyError.at("object", 1, 1, "", "not an object of the API")
        kind = decoded.get("kind")
        metadata = decoded.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        document = document_of(decoded, f"{kind} {name}")
        problems: list[Problem] = []
        cursor = Cursor(document, document.root, "", problems)
        change: Thing | None = None
        if not isinstance(kind, str) or kind not in KUBE_KINDS or decoded.get("apiVersion") not in KUBE_KINDS[kind]:
            cursor.problem(f"{decoded.get('apiVersion')}, kind {kind!r} is not supported")
        elif kind == "Namespace":
            change = namespace_read(cursor)
        elif kind == "Pod":
            pod = pod_read(cursor)
            if pod is not None and not problems:
                meta = pod.meta
                port = self._port(pod.name, meta.namespace, meta.labels, pod.node, pod.ips or (), pod.named_ports)
                change = port
        else:
            path, namespaced, policy_read = _POLICIES[kind]
            policies = policy_read(cursor, [])
            if policies and not problems:
                namespace_of, name_of = policies[0].namespace if namespaced else "", policies[0].name
                prefix = f"{path}/{namespace_of}/{name_of}" if namespaced else f"{path}/{name_of}"
                change = Stamp(template_compile(policies, self.intern, prefix=prefix), namespace_of, name_of)
        if problems:
            raise PolicyError(problems)
        return change


def _cursor(value: Any) -> Cursor:
    document = document_of(value, "")
    return Cursor(document, document.root, "", [])
