# SPDX-License-Identifier: Apache-2.0
"""The API's objects as a compiled policy and an inventory that follow changes.

Objects are read by dfw's own front ends. One that can't be read is refused by itself: what it said before stays in
force, and `refused` says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from dfw.errors import PolicyError, UnsupportedError
from dfw.incremental import Change, Delta, PolicyState, Remove, Staged, Stamp
from dfw.inventory import inventory_object_read
from dfw.kube.decoded import DecodedReader
from dfw.model import (
    Gateway,
    Host,
    Machine,
    Namespace,
    Policy,
    Port,
    Segment,
    address_parse,
    mac_parse,
)
from supervisor_glue.api.client import Resource
from supervisor_glue.api.status import Object
from supervisor_glue.controllers.namespace_plan import is_isolated
from supervisor_glue.controllers.objects import annotations_of, object_key, spec_of, status_of
from supervisor_glue.controllers.postures import posture_path, posture_policy, system_policies
from supervisor_glue.controllers.resources import (
    CLUSTER_NETWORK_POLICIES,
    GATEWAYS,
    HOSTS,
    KIND_OF,
    MACHINES,
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    PORTS,
    SECURITY_POLICIES,
    SEGMENTS,
    api_version,
)
from supervisor_glue.controllers.settings import Settings
from supervisor_glue.controllers.vnics import POD_LABEL

POLICY_PREFIX: Final = {NETWORK_POLICIES: "np", SECURITY_POLICIES: "sp", CLUSTER_NETWORK_POLICIES: "cnp"}
"""How the paths of their rules begin: the prefix, then the object's key."""
LOOKED_AT: Final = (NAMESPACES, HOSTS, GATEWAYS, SEGMENTS, MACHINES, PORTS, PODS, *POLICY_PREFIX)


@dataclass(slots=True)
class Changed:
    """What one `apply` made different. Of ports, segments, gateways and hosts: by name, as they were."""

    delta: Delta
    ports: dict[str, Port | None] = field(default_factory=dict)
    segments: dict[str, Segment | None] = field(default_factory=dict)
    gateways: dict[str, Gateway | None] = field(default_factory=dict)
    hosts: dict[str, Host | None] = field(default_factory=dict)
    policies: set[str] = field(default_factory=set)  # paths of those that were put or removed


class Intent:
    """All of it. `change` notes, `apply` puts in force."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state = PolicyState()
        self.state.apply(list(system_policies(settings)))
        self.hosts: dict[str, Host] = {}
        self.gateways: dict[str, Gateway] = {}
        self.segments: dict[str, Segment] = {}
        self.ports: dict[str, Port] = {}
        self.refused: dict[tuple[Resource, str], str] = {}
        self.revision = 0
        self._reader = DecodedReader(self.state.selections.meaning)
        self._dirty: dict[Resource, dict[str, Object | None]] = {}
        self._pods: dict[str, Object] = {}
        self._pod_ports: dict[str, Object] = {}  # by the pod's key
        self._pod_of_port: dict[str, str] = {}
        self._moved: set[str] = set()  # pods whose Ports changed
        self._isolated: set[str] = set()
        self._staged: set[str] = set()

    @property
    def is_dirty(self) -> bool:
        """Something has been noted."""
        return bool(self._dirty)

    def change(self, resource: Resource, old: Object | None, new: Object | None, at: int = 0) -> None:
        """Note a change, as an informer tells it. One of the status alone is none (realized state is written there).
        `at`: the revision as of which the informer is: what is gone has none of its own end."""
        if old is not None and new is not None and _said(resource, old) == _said(resource, new):
            return
        item = new if new is not None else old
        assert item is not None
        self._dirty.setdefault(resource, {})[object_key(item)] = new
        revision = str(item["metadata"].get("resourceVersion", "0"))
        self.revision = max(self.revision, int(revision) if revision.isdecimal() else 0, at if new is None else 0)

    def apply(self) -> Changed:
        """Put all that was noted in force, as one."""
        dirty, self._dirty = self._dirty, {}
        found = Changed(Delta(0))
        changes: list[Change] = []
        changes += self._namespaces(dirty.pop(NAMESPACES, {}), found)
        changes += self._inventory(dirty, found)
        changes += self._pod_changes(dirty.pop(PODS, {}), found)
        for resource in POLICY_PREFIX:
            changes += self._policies(resource, dirty.pop(resource, {}), found)
        try:
            found.delta = self.state.apply(changes)
        except UnsupportedError:
            found.delta = self._one_by_one(changes)
        return found

    def _one_by_one(self, changes: Iterable[Change]) -> Delta:
        """What the packet core cannot express is left out; everything else is put in force."""
        deltas = []
        for change in changes:
            try:
                deltas.append(self.state.apply([change]))
            except UnsupportedError as error:
                path = str(getattr(change, "key", None) or getattr(change, "path", change))
                for resource, prefix in POLICY_PREFIX.items():
                    if path.startswith(f"{prefix}/"):
                        self.refused[resource, path.partition("/")[2]] = str(error)
        return _joined(self.state.revision, deltas)

    # Namespaces and policies.

    def _namespaces(self, dirty: Mapping[str, Object | None], found: Changed) -> Iterable[Change]:
        yield from self._read(NAMESPACES, dirty)
        for name, item in dirty.items():
            if item is None:
                yield Remove(Namespace, name)
            isolated = item is not None and is_isolated(item, self.settings)
            if isolated and name not in self._isolated:
                self._isolated.add(name)
                found.policies.add(posture_path(name))
                yield posture_policy(name, self.settings)
            elif not isolated and name in self._isolated:
                self._isolated.discard(name)
                found.policies.add(posture_path(name))
                yield Remove(Policy, posture_path(name))

    def _policies(self, resource: Resource, dirty: Mapping[str, Object | None], found: Changed) -> Iterable[Change]:
        prefix = POLICY_PREFIX[resource]
        for change in self._read(resource, dirty):
            key = change.policy if isinstance(change, Staged) else change
            assert isinstance(key, Stamp)
            found.policies.add(key.key)
            if isinstance(change, Staged):
                self._staged.add(key.key)
                yield Remove(Stamp, key.key)
            elif key.key in self._staged:
                self._staged.discard(key.key)
                yield Remove(Staged, key.key)
            yield change
        for key_text, item in dirty.items():
            path = f"{prefix}/{key_text}"
            if item is None:
                found.policies.add(path)
                yield Remove(Staged if path in self._staged else Stamp, path)
                self._staged.discard(path)

    def _read(self, resource: Resource, dirty: Mapping[str, Object | None]) -> list[Any]:
        """The things that these objects are: all at once, or, where one of them is refused, one by one."""
        items = {}
        for key, item in dirty.items():
            self.refused.pop((resource, key), None)
            if item is not None:
                items[key] = _typed(resource, item)
        try:
            return self._reader.read_all(items.values())
        except PolicyError:
            pass
        changes: list[Any] = []
        for key, item in items.items():
            try:
                changes += self._reader.read_all([item])
            except PolicyError as error:
                self.refused[resource, key] = "; ".join(problem.message for problem in error.problems)
        return changes

    # Pods and their Ports.

    def _pod_changes(self, pods: Mapping[str, Object | None], found: Changed) -> Iterable[Change]:
        wanted: dict[str, Object | None] = {}
        for key, item in pods.items():
            if item is None:
                self._pods.pop(key, None)
            else:
                self._pods[key] = item
        for key in (*pods, *self._moved):
            wanted[key] = self._pods.get(key) if key in self._pod_ports else None
        self._moved.clear()
        made = {port.name: port for port in self._read(PODS, wanted)}
        for key in wanted:
            port = made.get(key)
            if port is not None:
                port = self._port_of_pod(port, self._pod_ports[key])
            elif (PODS, key) in self.refused and wanted[key] is not None:
                continue  # it stays as it was
            yield from self._put_port(key, port, found)

    def _port_of_pod(self, port: Port, item: Object) -> Port | None:
        spec = spec_of(item)
        try:
            ips = tuple(map(address_parse, spec.get("ips") or ()))
            mac = mac_parse(spec["mac"])
            return replace(port, host=spec["host"], segment=spec["segment"], mac=mac, ips=ips)
        except (KeyError, ValueError) as error:
            self.refused[PORTS, object_key(item)] = str(error)
            return None

    def _put_port(self, name: str, port: Port | None, found: Changed) -> Iterable[Change]:
        old = self.ports.get(name)
        if port == old:
            return
        found.ports.setdefault(name, old)
        if port is None:
            del self.ports[name]
            yield Remove(Port, name)
        else:
            self.ports[name] = port
            yield port

    # Hosts, gateways, segments, machines, and ports that are no pods'.

    def _inventory(self, dirty: dict[Resource, dict[str, Object | None]], found: Changed) -> Iterable[Change]:
        for key, item in dirty.pop(HOSTS, {}).items():
            self._keep(self.hosts, found.hosts, key, self._host(item, key))
        for key, item in dirty.pop(GATEWAYS, {}).items():
            self._keep(self.gateways, found.gateways, key, self._gateway(item, key))
        for key, item in dirty.pop(SEGMENTS, {}).items():
            segment = self._segment(item, key)
            self._keep(self.segments, found.segments, key, segment)
            yield segment if segment is not None else Remove(Segment, key)
        for key, item in dirty.pop(MACHINES, {}).items():
            values = self._values(MACHINES, item, key)
            fields = ("os_name", "computer_name", "tags", "external_id")
            yield Remove(Machine, key) if values is None else Machine(key, **{name: values[name] for name in fields})
        for key, item in dirty.pop(PORTS, {}).items():
            pod = None if item is None else annotations_of(item).get(POD_LABEL)
            if item is not None and pod:
                self._pod_ports[f"{spec_of(item).get('namespace')}/{pod}"] = item
                self._pod_of_port[key] = f"{spec_of(item).get('namespace')}/{pod}"
                self._moved.add(self._pod_of_port[key])
            elif key in self._pod_of_port:
                self._moved.add(self._pod_of_port[key])
                self._pod_ports.pop(self._pod_of_port.pop(key), None)
            else:
                yield from self._put_port(key, self._other_port(item, key), found)

    @staticmethod
    def _keep(table: dict[str, Any], before: dict[str, Any], key: str, thing: Any) -> None:
        old = table.get(key)
        if old == thing:
            return
        before.setdefault(key, old)
        if thing is None:
            del table[key]
        else:
            table[key] = thing

    def _values(self, resource: Resource, item: Object | None, key: str) -> Mapping[str, Any] | None:
        self.refused.pop((resource, key), None)
        if item is None:
            return None
        meta = {name: value for name, value in item["metadata"].items() if name in ("name", "labels")}
        try:
            return inventory_object_read({**_typed(resource, item), "metadata": meta})
        except PolicyError as error:
            self.refused[resource, key] = "; ".join(problem.message for problem in error.problems)
            return None

    def _missing(self, resource: Resource, key: str, values: Mapping[str, Any], *fields: str) -> bool:
        missing = [name for name in fields if values[name] is None]
        if missing:
            self.refused[resource, key] = f"the field {missing[0]} is missing"
        return bool(missing)

    def _host(self, item: Object | None, key: str) -> Host | None:
        values = self._values(HOSTS, item, key)
        if values is None or self._missing(HOSTS, key, values, "tep"):
            return None
        own = (values[name] for name in ("tep", "tags", "bfd_interval", "bfd_multiple", "enforcer", "encapsulation"))
        return Host(key, *own)

    def _gateway(self, item: Object | None, key: str) -> Gateway | None:
        values = self._values(GATEWAYS, item, key)
        return None if values is None else Gateway(key, values["tier"], _named(values["tier0"]), values["tags"])

    def _segment(self, item: Object | None, key: str) -> Segment | None:
        values = self._values(SEGMENTS, item, key)
        if values is None or self._missing(SEGMENTS, key, values, "vni"):
            return None
        return Segment(key, values["vni"], values["subnets"] or (), _named(values["gateway"]), values["tags"])

    def _other_port(self, item: Object | None, key: str) -> Port | None:
        values = self._values(PORTS, item, key)
        if values is None or self._missing(PORTS, key, values, "host", "segment", "mac"):
            return None
        return Port(
            key,
            _named(values["host"]) or "",
            _named(values["segment"]) or "",
            _named(values["machine"]) or key,
            values["mac"],
            tuple(values["ips"] or ()),
            values["tags"],
            values["labels"],
            values["namespace"],
            values["external_id"],
        )


def _said(resource: Resource, item: Object) -> tuple[object, ...]:
    """What of an object is looked at here."""
    meta, phase = item["metadata"], status_of(item).get("phase") if resource == PODS else None
    return meta.get("uid"), meta.get("labels"), meta.get("annotations"), item.get("spec"), phase


def _named(written: Any) -> str | None:
    """The name that a reference means."""
    return None if written is None else str(written.text).rpartition("/")[2]


def _typed(resource: Resource, item: Object) -> Object:
    """With its kind, which objects of a list need not have."""
    if "kind" in item and "apiVersion" in item:
        return item
    return {"apiVersion": api_version(resource), "kind": KIND_OF[resource], **item}


def _joined(revision: int, deltas: Sequence[Delta]) -> Delta:
    """What deltas one after the other made different."""
    beside = [delta.what_if for delta in deltas if delta.what_if is not None]
    return Delta(
        revision,
        {number: change for delta in deltas for number, change in delta.sets.items()},
        frozenset().union(*(delta.tables for delta in deltas)),
        frozenset().union(*(delta.gone for delta in deltas)),
        frozenset().union(*(delta.profiles for delta in deltas)),
        any(delta.layer2 for delta in deltas),
        _joined(beside[-1].revision, beside) if beside else None,
    )


def place_of(port: Port) -> tuple[object, ...]:
    """What others have to know of a port."""
    return port.host, port.segment, port.mac, port.ips
