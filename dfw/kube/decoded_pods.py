# SPDX-License-Identifier: Apache-2.0
"""Decoded pods -> their vNICs, many at a time: what is read of each goes into columns, and the vNICs are made of these.

Reading ends at the first pod that is not plain; that one is for the readers of manifests (dfw/kube/decoded.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import compress, repeat
from operator import itemgetter
from typing import Any, TypeAlias

import msgspec
import numpy as np

from dfw.assign import free_mac, usual_macs
from dfw.fields import mapping
from dfw.inventory import workload_address, workload_ipv4
from dfw.kube.kinds import KUBE_KINDS
from dfw.kube.metadata import object_name
from dfw.kube.plain import NotPlain, Plain, cursor_of, remember
from dfw.kube.pod import ENDED, SPEC, named_ports
from dfw.model import Address, Family, NamedPort, Port, rows_of_columns

_READ_OF_SPEC = tuple(key for key in SPEC if key != "nodeName")
_VERSIONS = frozenset(KUBE_KINDS["Pod"])
_FIELDS = ("apiVersion", "metadata", "spec", "status")
_fields = itemgetter(*_FIELDS)
SEVERAL = 8
"""From so many objects on columns pay."""
_LONGEST_PHASE = 1024
NOT_PLAIN = (NotPlain, KeyError, TypeError, AttributeError)
"""What reading quickly raises for what is not plain."""
_NOTHING: Mapping[str, Any] = {}
_ANY_IPV4 = bytes(4)
_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
_address_made = partial(tuple.__new__, Address)


_Row: TypeAlias = tuple[str, str, Mapping[str, str], str, bytes, tuple[Address, ...], tuple[NamedPort, ...]]
"""What was read of a pod that has a vNIC: name, namespace, labels, node (or nothing), its only address if that is an
IPv4 one, else all its addresses, and its named ports."""
_Columns: TypeAlias = Sequence[Sequence[Any]]
"""Rows turned over: the fields of a _Row, each of all pods."""


class PodReader:
    """Reads pods; remembers what it has read, and which MAC addresses it gave. `segment`: of pods, none says one."""

    def __init__(self, plain: Plain, segment: str) -> None:
        self.segment = segment
        self._plain = plain
        self._nodes: dict[str, str] = {}
        self._specs: dict[bytes, tuple[bool, tuple[NamedPort, ...]]] = {}
        self._macs: dict[str, str] = {}

    def read(self, pods: Sequence[Mapping[str, Any]]) -> list[Port | None]:
        """The vNICs of as many pods as are plain; None for a pod that has none."""
        if len(pods) < SEVERAL:
            return self.read_singly(pods)
        try:
            columns, has_vnic = self._columns(pods)
        except NOT_PLAIN:  # one of them: which one, reading them one by one will tell
            return self.read_singly(pods)
        return self._among(columns, has_vnic)

    def read_singly(self, pods: Iterable[Mapping[str, Any]]) -> list[Port | None]:
        """`read`, a pod at a time: where one of them is known not to be plain."""
        rows: list[_Row] = []
        had: list[bool] = []
        try:
            for pod in pods:
                row = self._row(pod)
                had.append(row is not None)
                if row is not None:
                    rows.append(row)
        except NOT_PLAIN:
            pass
        return self._among(list(zip(*rows, strict=True)), had)

    def port(
        self,
        name: str,
        namespace: str,
        labels: Mapping[str, str],
        node: str | None,
        ips: tuple[Address, ...],
        ports: tuple[NamedPort, ...],
    ) -> Port:
        """The vNIC of a pod that was read by others."""
        row: _Row = (name, namespace, labels, node or "", _ANY_IPV4, ips, ports)
        return self._ports([[field] for field in row])[0]

    def _among(self, columns: _Columns, has_vnic: Sequence[bool]) -> list[Port | None]:
        made = self._ports(columns) if columns else []
        if len(made) == len(has_vnic):
            return list(made)
        following = iter(made)
        return [next(following) if has else None for has in has_vnic]

    def _ports(self, columns: _Columns) -> list[Port]:
        names, namespaces, labels, nodes, packed, ips, named = columns
        values = np.frombuffer(b"".join(packed), dtype=">u4").tolist()
        only = zip(map(_address_made, zip(repeat(Family.IPV4), values)), strict=False)  # each in a tuple of its own
        paths = [f"{namespace}/{name}" for name, namespace in zip(names, namespaces, strict=True)]
        return rows_of_columns(
            Port,
            len(paths),
            name=paths,
            host=nodes,
            segment=repeat(self.segment),
            machine=paths,
            mac=self._macs_of(paths),
            ips=[one if text is not _ANY_IPV4 else more for one, text, more in zip(only, packed, ips, strict=True)],
            labels=labels,
            namespace=namespaces,
            named_ports=named,
        )

    def _macs_of(self, paths: Sequence[str]) -> list[str]:
        macs, given = usual_macs(paths), self._macs
        if given.keys().isdisjoint(macs) and len(set(macs)) == len(macs):
            given.update(zip(macs, paths, strict=True))
            return macs
        for at, path in enumerate(paths):
            if given.setdefault(macs[at], path) != path:
                macs[at] = free_mac(path, given)
                given[macs[at]] = path
        return macs

    # Many at once: a field of all of them after the other.

    def _columns(self, pods: Sequence[Mapping[str, Any]]) -> tuple[_Columns, Sequence[bool]]:
        """The pods that have a vNIC as columns, and which ones these are."""
        if set(map(len, pods)) != {len(_FIELDS) + 1}:  # with the kind
            raise NotPlain
        versions, metadata, specs, statuses = zip(*map(_fields, pods), strict=True)
        if not _VERSIONS.issuperset(versions):
            raise NotPlain
        names, namespaces = self._plain.metas(metadata)
        labels = self._plain.labels_of([meta.get("labels") for meta in metadata])
        on_host, named = self._specs_of(specs)
        nodes = [spec.get("nodeName") for spec in specs]
        for node in {*nodes}.difference(self._nodes, (None,)):
            remember(self._nodes, node, self._plain.clean(object_name, node))
        phases, packed, ips = self._statuses_of(statuses)
        columns: _Columns = (names, namespaces, labels, [node or "" for node in nodes], packed, ips, named)
        if True not in on_host and ENDED.isdisjoint(phases):
            return columns, [True] * len(pods)
        has_vnic = [not on and phase not in ENDED for on, phase in zip(on_host, phases, strict=True)]
        return [list(compress(column, has_vnic)) for column in columns], has_vnic

    def _specs_of(self, specs: Sequence[Mapping[str, Any]]) -> tuple[Sequence[bool], Sequence[tuple[NamedPort, ...]]]:
        read = [[spec.get(key) for spec in specs] for key in _READ_OF_SPEC]
        texts = _encode_lines(list(zip(*read, strict=True))).split(b"\n")
        texts.pop()  # what follows the last line: nothing
        known = self._specs
        if not known.keys() >= {*texts}:
            for number, text in enumerate(texts):
                if text not in known:
                    self._spec([column[number] for column in read])
        on_host, named = zip(*map(known.__getitem__, texts), strict=True)
        return on_host, named

    def _statuses_of(
        self, statuses: Sequence[Mapping[str, Any]]
    ) -> tuple[Sequence[str | None], Sequence[bytes], Sequence[tuple[Address, ...]]]:
        firsts: list[Any] = [status.get("podIP") for status in statuses]
        if [status.get("podIPs") for status in statuses] == [[{"ip": first}] for first in firsts]:
            phases: list[Any] = [status.get("phase") for status in statuses]
            packed = list(map(workload_ipv4, firsts))
            are_texts = {*map(type, phases)} == {str} and all(0 < len(phase) <= _LONGEST_PHASE for phase in {*phases})
            if are_texts and None not in packed:
                return phases, packed, [()] * len(firsts)  # type: ignore[return-value]
        columns: _Columns = list(zip(*map(self._status, statuses), strict=True))
        return columns[0], columns[1], columns[2]

    # One by one.

    def _row(self, pod: Mapping[str, Any]) -> _Row | None:
        spec, status = pod.get("spec"), pod.get("status")
        # The three that every object has, and no others but these two.
        if len(pod) != 3 + ("spec" in pod) + ("status" in pod) or pod["apiVersion"] not in _VERSIONS:
            raise NotPlain
        metadata = pod["metadata"]
        name, namespace = self._plain.meta(metadata)
        labels = self._plain.labels(metadata.get("labels"))
        if spec is None:
            spec = _NOTHING
        node = spec.get("nodeName")
        if node not in self._nodes and node is not None:
            remember(self._nodes, node, self._plain.clean(object_name, node))
        is_on_host, ports = self._spec(list(map(spec.get, _READ_OF_SPEC)))
        phase, packed, ips = self._status(_NOTHING if status is None else status)
        if is_on_host or phase in ENDED:
            return None
        return name, namespace, labels, node or "", packed, ips, ports

    def _spec(self, read: list[Any]) -> tuple[bool, tuple[NamedPort, ...]]:
        text = _encode(read)
        known = self._specs.get(text)
        if known is None:
            cursor = cursor_of(dict(zip(_READ_OF_SPEC, read, strict=True)))
            fields = mapping(cursor, SPEC)
            if fields is None or cursor.problems:
                raise NotPlain
            known = remember(self._specs, text, (fields["hostNetwork"], tuple(named_ports(fields))))
        return known

    def _status(self, status: Mapping[str, Any]) -> tuple[str | None, bytes, tuple[Address, ...]]:
        """The phase, and the addresses as in a _Row."""
        phase, first, others = status.get("phase"), status.get("podIP"), status.get("podIPs")
        if phase is not None and not (isinstance(phase, str) and 0 < len(phase) <= _LONGEST_PHASE):
            raise NotPlain
        if others is None:
            others = []
        if type(others) is not list or len(others) > 2:
            raise NotPlain
        if first is not None and (not others or (len(others) == 1 and others[0] == {"ip": first})):
            packed = workload_ipv4(first)
            if packed is not None:
                return phase, packed, ()
        texts = [] if first is None else [first]
        for item in others:
            if item.keys() != {"ip"}:
                raise NotPlain
            if item["ip"] != first:
                texts.append(item["ip"])
        if not all(isinstance(text, str) for text in texts):
            raise NotPlain
        try:
            ips = tuple(map(workload_address, texts))
        except ValueError:
            raise NotPlain from None
        if len(ips) > 1 and first is not None:  # said twice, in two ways of writing it
            ips = (ips[0], *(ip for ip in ips[1:] if ip != ips[0]))
        return phase, _ANY_IPV4, ips
