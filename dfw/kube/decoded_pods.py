# SPDX-License-Identifier: Apache-2.0
"""Decoded pods -> their vNICs, many at a time: what is read of each goes into columns, and the vNICs are made of these.

Reading ends at the first pod that is not plain; that one is for the readers of manifests (dfw/kube/decoded.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any, TypeAlias

import msgspec
import numpy as np

from dfw.assign import free_mac, usual_mac
from dfw.fields import mapping
from dfw.inventory import workload_address, workload_ipv4
from dfw.kube.kinds import KUBE_KINDS
from dfw.kube.metadata import object_name
from dfw.kube.plain import NotPlain, Plain, cursor_of, remember
from dfw.kube.pod import ENDED, SPEC, named_ports
from dfw.model import Address, Family, NamedPort, Port, rows_of_columns

_READ_OF_SPEC = tuple(key for key in SPEC if key != "nodeName")
_VERSIONS = KUBE_KINDS["Pod"]
_NOTHING: Mapping[str, Any] = {}
_ANY_IPV4 = bytes(4)
_encode = msgspec.json.Encoder().encode
_address_made = partial(tuple.__new__, Address)


_Row: TypeAlias = tuple[str, str, Mapping[str, str], str, bytes, tuple[Address, ...], tuple[NamedPort, ...]]
"""What was read of a pod that has a vNIC: name, namespace, labels, node (or nothing), its only address if that is an
IPv4 one, else all its addresses, and its named ports."""


class PodReader:
    """Reads pods; remembers what it has read, and which MAC addresses it gave. `segment`: of pods, none says one."""

    def __init__(self, plain: Plain, segment: str) -> None:
        self.segment = segment
        self._plain = plain
        self._nodes: dict[str, str] = {}
        self._specs: dict[bytes, tuple[bool, tuple[NamedPort, ...]]] = {}
        self._macs: dict[str, str] = {}

    def read(self, pods: Iterable[Mapping[str, Any]]) -> list[Port | None]:
        """The vNICs of as many pods as are plain; None for a pod that has none."""
        rows: list[_Row] = []
        has_vnic: list[bool] = []
        try:
            for pod in pods:
                row = self._row(pod)
                has_vnic.append(row is not None)
                if row is not None:
                    rows.append(row)
        except (NotPlain, KeyError, TypeError, AttributeError):
            pass
        made = self._ports(rows)
        if len(rows) == len(has_vnic):
            return list(made)
        following = iter(made)
        return [next(following) if has else None for has in has_vnic]

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
        return self._ports([(name, namespace, labels, node or "", _ANY_IPV4, ips, ports)])[0]

    def _ports(self, rows: Sequence[_Row]) -> list[Port]:
        if not rows:
            return []
        names, namespaces, labels, nodes, packed, ips, named = zip(*rows, strict=True)
        values = np.frombuffer(b"".join(packed), dtype=">u4").tolist()
        only = list(zip(map(_address_made, zip(repeat(Family.IPV4), values)), strict=True))
        paths = [f"{namespace}/{name}" for name, namespace in zip(names, namespaces, strict=True)]
        macs: list[str] = []
        given = self._macs
        for path in paths:
            mac = usual_mac(path)
            if given.setdefault(mac, path) != path:
                mac = free_mac(path, given)
                given[mac] = path
            macs.append(mac)
        return rows_of_columns(
            Port,
            len(rows),
            name=paths,
            host=nodes,
            segment=repeat(self.segment),
            machine=paths,
            mac=macs,
            ips=[one if text is not _ANY_IPV4 else more for one, text, more in zip(only, packed, ips, strict=True)],
            labels=labels,
            namespace=namespaces,
            named_ports=named,
        )

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
        if phase is not None and not (isinstance(phase, str) and 0 < len(phase) <= 1024):
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
