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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from typing import Any

import msgspec

from dfw.assign import PODS_SEGMENT
from dfw.documents import document_of
from dfw.errors import PolicyError, Problem
from dfw.fields import Cursor
from dfw.findings import Finding
from dfw.incremental import Change, Staged, Stamp, Thing, collector_paused
from dfw.incremental.marks import Hole, Marks
from dfw.incremental.templates import Intern, PolicyTemplate, template_compile
from dfw.kube.cluster_network_policy import cluster_network_policy_read
from dfw.kube.decoded_pods import NOT_PLAIN, SEVERAL, PodReader
from dfw.kube.kinds import KUBE_KINDS
from dfw.kube.metadata import DELETE, STAGED, staging_read
from dfw.kube.namespace import namespace_read
from dfw.kube.network_policy import network_policy_read
from dfw.kube.peers import cidr
from dfw.kube.plain import NotPlain, Plain, cursor_of, remember
from dfw.kube.pod import pod_read
from dfw.kube.security_policy import security_policy_read
from dfw.kube.selector import selector
from dfw.model import NAMESPACE_NAME_LABEL, Namespace, Policy, prefix_parse, rows_of_columns

_POLICIES: Mapping[str, tuple[str, bool, Callable[[Cursor, list[Finding]], tuple[Policy, ...]]]] = {
    "NetworkPolicy": ("np", True, network_policy_read),
    "SecurityPolicy": ("sp", True, security_policy_read),
    "ClusterNetworkPolicy": ("cnp", False, lambda cursor, findings: cluster_network_policy_read(cursor)),
}
# A selector that is nothing but labels, and a block of addresses without exceptions. Inside of a JSON text's strings
# quotes are escaped, so that neither can begin in one.
_HOLE = re.compile(
    rb'(\{"matchLabels":\{"[^"\\]*":"[^"\\]*"(?:,"[^"\\]*":"[^"\\]*")*\}\}|\{"cidr":"[^"\\]*"\})',
)
_BLOCK, _BLOCK_END = b'{"cidr":"', b'"}'
_QUICKLY_STAGED = (None, "true", "false")
_STANDIN = "standin"
_AT_ONCE = 512  # few enough for what is read of them to stay in the processor's cache
_NAMESPACE_VERSIONS = KUBE_KINDS["Namespace"]
_FIELDS = ("apiVersion", "metadata", "spec")
_fields = itemgetter(*_FIELDS)
_stamp_made = partial(tuple.__new__, Stamp)
_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines


class DecodedReader:
    """Reads one object after the other; remembers what it has read. `segment`: of pods, none of whom says one."""

    def __init__(self, intern: Intern, segment: str = PODS_SEGMENT) -> None:
        self.intern = intern
        self._plain = Plain()
        self._pods = PodReader(self._plain, segment)
        self._templates: dict[tuple[object, ...], PolicyTemplate] = {}
        self._holes: dict[bytes, Hole] = {}
        token = secrets.token_hex(8)  # nobody can write a mark into a policy
        self._mark_label = f"mark.palisade.internal/{token}"
        self._mark_block = f"fd{token[:2]}:{token[2:6]}:{token[6:10]}:{token[10:14]}"

    def read(self, decoded: Mapping[str, Any]) -> Thing | None:
        """The thing that an object is; None for a pod that has no vNIC. Raises PolicyError."""
        try:
            kind = decoded["kind"]
            if kind == "Pod":
                found = self._pods.read((decoded,))
                return found[0] if found else self._read_slowly(decoded)
            metadata = decoded["metadata"]
            staging = None
            if "annotations" in metadata and kind in _POLICIES:
                staging = (metadata["annotations"] or {}).get(STAGED)
                if staging not in _QUICKLY_STAGED:
                    raise NotPlain
            # The three that are asked for here, and no others but these two.
            plain = 3 + ("spec" in decoded) + ("status" in decoded)
            if len(decoded) != plain or decoded["apiVersion"] not in KUBE_KINDS[kind]:
                raise NotPlain
            if kind == "Namespace":
                return self._namespace(metadata)
            stamp = self._policy(kind, metadata, decoded["spec"])
            return Staged(stamp) if staging == "true" else stamp
        except NOT_PLAIN:
            return self._read_slowly(decoded)

    def read_all(self, objects: Iterable[Mapping[str, Any]]) -> list[Change]:
        """The changes that many objects are. Raises PolicyError with the problems of all of them."""
        changes: list[Change] = []
        problems: list[Problem] = []
        run: list[Mapping[str, Any]] = []  # consecutive objects of a kind
        kind: object = None
        with collector_paused():
            for decoded in objects:
                its = decoded.get("kind") if isinstance(decoded, dict) else None
                if its != kind or len(run) == _AT_ONCE:
                    self._read_run(kind, run, changes, problems)
                    kind, run = its, []
                run.append(decoded)
            self._read_run(kind, run, changes, problems)
        if problems:
            raise PolicyError(problems)
        return changes

    def _read_run(
        self, kind: object, run: list[Mapping[str, Any]], changes: list[Change], problems: list[Problem]
    ) -> None:
        """Consecutive objects of a kind: all at once where they are plain, else one by one."""
        if kind == "Pod":
            self._read_pods(run, changes, problems)
            return
        if len(run) >= SEVERAL and isinstance(kind, str):
            try:
                if kind == "Namespace":
                    changes += self._namespaces(run)
                    return
                if kind in _POLICIES:
                    changes += self._policies(kind, run)
                    return
            except NOT_PLAIN:
                pass
        for decoded in run:
            try:
                change = self.read(decoded)
            except PolicyError as error:
                problems += error.problems
            else:
                if change is not None:
                    changes.append(change)

    def _read_pods(self, pods: list[Mapping[str, Any]], changes: list[Change], problems: list[Problem]) -> None:
        """Consecutive pods, all at once as far as they are plain."""
        at = 0
        while at < len(pods):
            found = self._pods.read_singly(pods[at:]) if at else self._pods.read(pods)
            changes += [port for port in found if port is not None]
            at += len(found)
            if at < len(pods):  # one that is not plain
                try:
                    change = self._read_slowly(pods[at])
                except PolicyError as error:
                    problems += error.problems
                else:
                    if change is not None:
                        changes.append(change)
                at += 1

    # The quick way.

    def _namespace(self, metadata: Mapping[str, Any]) -> Namespace:
        name, _ = self._plain.meta(metadata, namespaced=False)
        labels = self._plain.labels(metadata.get("labels"))
        if labels.get(NAMESPACE_NAME_LABEL, name) != name:
            raise NotPlain
        return Namespace(name, labels if NAMESPACE_NAME_LABEL in labels else {**labels, NAMESPACE_NAME_LABEL: name})

    def _namespaces(self, objects: Sequence[Mapping[str, Any]]) -> list[Namespace]:
        """Many at once."""
        metadata = [item["metadata"] for item in objects]
        for item in objects:
            if len(item) != 3 + ("spec" in item) + ("status" in item) or item["apiVersion"] not in _NAMESPACE_VERSIONS:
                raise NotPlain
        names, _ = self._plain.metas(metadata, namespaced=False)
        labels = list(self._plain.labels_of([meta.get("labels") for meta in metadata]))
        for at, (name, its) in enumerate(zip(names, labels, strict=True)):
            named = its.get(NAMESPACE_NAME_LABEL)
            if named is None:
                labels[at] = {**its, NAMESPACE_NAME_LABEL: name}
            elif named != name:
                raise NotPlain
        return rows_of_columns(Namespace, len(names), name=names, labels=labels)

    def _policies(self, kind: str, objects: Sequence[Mapping[str, Any]]) -> list[Stamp]:
        """Many of a kind at once; none of them staged."""
        path, namespaced, _ = _POLICIES[kind]
        if set(map(len, objects)) != {len(_FIELDS) + 1}:  # with the kind
            raise NotPlain
        versions, metadata, specs = zip(*map(_fields, objects), strict=True)
        if not all(map(KUBE_KINDS[kind].__contains__, versions)) or None in specs:
            raise NotPlain
        if any((meta["annotations"] or {}).get(STAGED) is not None for meta in metadata if "annotations" in meta):
            raise NotPlain
        names, namespaces = self._plain.metas(metadata, namespaced)
        self._plain.labels_of([meta.get("labels") for meta in metadata])
        texts = _encode_lines(specs).split(b"\n")
        texts.pop()  # what follows the last line: nothing
        templates, holes = zip(*[self._filled(kind, path, text) for text in texts], strict=True)
        return list(map(_stamp_made, zip(templates, namespaces, names, holes, strict=True)))

    def _policy(self, kind: str, metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> Stamp:
        path, namespaced, _ = _POLICIES[kind]
        name, namespace = self._plain.meta(metadata, namespaced)
        self._plain.labels(metadata.get("labels"))
        if spec is None:
            raise NotPlain
        template, found = self._filled(kind, path, _encode(spec))
        return Stamp(template, namespace, name, found)

    def _filled(self, kind: str, path: str, spec: bytes) -> tuple[PolicyTemplate, tuple[Hole, ...]]:
        """The template of a spec, and what stands in it."""
        pieces = _HOLE.split(spec)
        texts = pieces[1::2]
        key = (path, *pieces[::2], *(map(texts.index, texts) if len(texts) > 1 else ()))
        holes = self._holes
        found = tuple([holes.get(text) or self._hole(text) for text in texts])
        template = self._templates.get(key)
        if template is None:
            template = remember(self._templates, key, self._template(kind, pieces))
        return template, found

    def _hole(self, text: bytes) -> Hole:
        """The value of a hole, as the reader of its kind gives it."""
        if text.startswith(_BLOCK):
            try:
                value: Any = prefix_parse(text[len(_BLOCK) : -len(_BLOCK_END)].decode())
            except ValueError:
                raise NotPlain from None
        else:
            value = self._plain.clean(selector, msgspec.json.decode(text))
        hole: Hole = remember(self._holes, text, Hole(value))
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
            marks.append(self._plain.clean(read, value))
            plain.append(_encode(block))
        marked = list(pieces)
        marked[1::2] = plain
        spec = msgspec.json.decode(b"".join(marked))
        path, namespaced, policy_read = _POLICIES[kind]
        metadata = {"name": _STANDIN, **({"namespace": _STANDIN} if namespaced else {})}
        cursor = cursor_of({"metadata": metadata, "spec": spec})
        policies = policy_read(cursor, [])
        if cursor.problems:
            raise NotPlain
        prefix = f"{path}/{_STANDIN}/{_STANDIN}" if namespaced else f"{path}/{_STANDIN}"
        return template_compile(policies, self.intern, prefix=prefix, marks=Marks(marks))

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
                ips = pod.ips or ()
                change = self._pods.port(meta.name, meta.namespace, meta.labels, pod.node, ips, pod.named_ports)
        else:
            path, namespaced, policy_read = _POLICIES[kind]
            policies = policy_read(cursor, [])
            if policies and not problems:
                namespace_of, name_of = policies[0].namespace if namespaced else "", policies[0].name
                prefix = f"{path}/{namespace_of}/{name_of}" if namespaced else f"{path}/{name_of}"
                staging = staging_read(cursor)
                if staging == DELETE:
                    policies = tuple(replace(policy, rules=()) for policy in policies)
                stamp = Stamp(template_compile(policies, self.intern, prefix=prefix), namespace_of, name_of)
                change = stamp if staging is None else Staged(stamp)
        if problems:
            raise PolicyError(problems)
        return change
