# SPDX-License-Identifier: Apache-2.0
"""Why an address is, or is not, a member of a rule's side: in words, with the tag, name or range that decides. Pure.

The model's own evaluation decides (`Term.matches`, `Term.ranges`); this module only says what it saw.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dfw.model import (
    Address,
    Addresses,
    AllOf,
    AnyOf,
    Condition,
    ConditionKey,
    ExternalIds,
    ExternalIdType,
    GroupMember,
    MacAddresses,
    MemberType,
    Peers,
    PolicySet,
    Port,
    PortMember,
    SegmentMember,
    Tag,
    Term,
    WorkloadMember,
)
from dfw.model.selector import Subject, tag_matches

_SHOWN = 3
_NAMES = {
    MemberType.VIRTUAL_MACHINE: "machine",
    MemberType.SEGMENT_PORT: "port",
    MemberType.SEGMENT: "segment",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """`groups`: the paths of the groups on the way to the term that decides, the rule's own first."""

    member: bool
    text: str
    groups: tuple[str, ...] = ()


def side_reason(world: PolicySet, peers: Peers, address: Address) -> Reason:
    """Is the address in this side of a rule, and why? A negated side is the caller's to turn round."""
    if peers.terms is None:
        return Reason(True, "any")
    bound = world.inventory.ports_at(address)
    for term in peers.terms:
        found = _why(world, term, address, bound)
        if found is not None:
            return found
    if not peers.terms:
        return Reason(False, "the list is empty: nobody is in it")
    return Reason(False, f"{_subject(address, bound)} is not in {_joined(world, peers.terms, address, bound)}")


def port_reason(world: PolicySet, peers: Peers, port: Port) -> Reason:
    """Is the vNIC in this Applied-To, and why?"""
    if peers.terms is None:
        return Reason(True, "any")
    for term in peers.terms:
        if term.matches(port, world):
            return _why_port(world, term, port)
    return Reason(False, f"{port.name} is not in {_joined(world, peers.terms, None, (port,))}")


def _subject(address: Address, bound: Iterable[Port]) -> str:
    names = ", ".join(port.name for port in bound)
    return f"{address} ({names})" if names else str(address)


def _joined(world: PolicySet, terms: tuple[Term, ...], address: Address | None, bound: tuple[Port, ...]) -> str:
    """What the terms would have wanted; the first few of them."""
    shown = [_why_not(world, term, address, bound) for term in terms[:_SHOWN]]
    more = f", nor in {len(terms) - _SHOWN} more" if len(terms) > _SHOWN else ""
    return ", nor in ".join(shown) + more


# -- why a member


def _why(world: PolicySet, term: Term, address: Address, bound: tuple[Port, ...]) -> Reason | None:
    """The first way on which the address is a member; None where it is not."""
    for item in term.ranges(world):
        if item.contains(address):
            return _why_address(world, term, address)
    for port in bound:
        if term.matches(port, world):
            return _why_port(world, term, port)
    return None


def _why_address(world: PolicySet, term: Term, address: Address) -> Reason:
    match term:
        case GroupMember(path):
            return _through(path, _why_address(world, world.groups[path].expression, address))
        case AnyOf(terms):
            for inner in terms:
                if any(item.contains(address) for item in inner.ranges(world)):
                    return _why_address(world, inner, address)
    item = next(item for item in term.ranges(world) if item.contains(address))
    return Reason(True, f"{address} is {item}" if item.first == item.last else f"{address} is in {item}")


def _why_port(world: PolicySet, term: Term, port: Port) -> Reason:
    match term:
        case GroupMember(path):
            return _through(path, _why_port(world, world.groups[path].expression, port))
        case AnyOf(terms):
            return next(_why_port(world, inner, port) for inner in terms if inner.matches(port, world))
        case AllOf(terms):
            parts = [_why_port(world, inner, port) for inner in terms]
            groups = tuple(path for part in parts for path in part.groups)
            return Reason(True, " and ".join(part.text for part in parts) or f"{port.name} is any vNIC", groups)
        case Condition():
            return Reason(True, _condition_text(world, term, port))
        case PortMember(name):
            return Reason(True, f"it is the port {name}")
        case SegmentMember(name):
            return Reason(True, f"{port.name} is on segment {name}")
        case ExternalIds(member_type, _):
            is_machine = member_type is ExternalIdType.VIRTUAL_MACHINE
            owner = world.inventory.machine_of(port) if is_machine else port
            return Reason(True, f"{owner.name} has the external id {owner.external_id}")
        case WorkloadMember():
            return Reason(True, f"{port.name} is one of {term}{_labels_instead(world, (port,))}")
        case _:
            return Reason(True, f"{port.name} is selected by {term}")


def _through(path: str, inner: Reason) -> Reason:
    return Reason(inner.member, inner.text, (path, *inner.groups))


def _condition_text(world: PolicySet, term: Condition, port: Port) -> str:
    """`machine web-1-vm has the tag app|web (Tag EQUALS app|web)`."""
    owner, name = _owner(world, term, port)
    wanted = condition_name(term)
    if term.key is ConditionKey.ALL:
        return f"every {name} is one (ALL)"
    if term.key is not ConditionKey.TAG:
        return f"{name} {owner.name} has the {_KEYS[term.key].replace('_', ' ')} {_attribute(term, owner)!r} ({wanted})"
    positive = term.operator.value not in ("NOTEQUALS", "NOTIN")
    if positive:
        tag = next(tag for tag in owner.tags if tag_matches(tag, term.operator, term.value, term.scope_differs))
        return f"{name} {owner.name} has the tag {tag_text(tag)} ({wanted})"
    return f"{name} {owner.name} has {_tags_text(owner.tags)} ({wanted})"


def condition_name(term: Condition) -> str:
    """`Tag EQUALS app|web`."""
    scope = " of another scope" if term.scope_differs else ""
    return f"{term.key.value} {term.operator.value} {term.value}{scope}"


def tag_text(tag: Tag) -> str:
    """As it would be written in a Condition."""
    return f"{tag.scope}|{tag.tag}"


def _tags_text(tags: tuple[Tag, ...]) -> str:
    if not tags:
        return "no tags"
    shown = ", ".join(map(tag_text, tags[: _SHOWN * 2]))
    return f"the tag{'s' if len(tags) > 1 else ''} {shown}" + (", ..." if len(tags) > _SHOWN * 2 else "")


def _owner(world: PolicySet, term: Condition, port: Port) -> tuple[Subject, str]:
    name = _NAMES[term.member_type]
    if term.member_type is MemberType.VIRTUAL_MACHINE:
        return world.inventory.machine_of(port), name
    return (port if term.member_type is MemberType.SEGMENT_PORT else world.inventory.segment_of(port)), name


_KEYS = {ConditionKey.NAME: "name", ConditionKey.OS_NAME: "os_name", ConditionKey.COMPUTER_NAME: "computer_name"}


def _attribute(term: Condition, owner: Subject) -> str:
    return str(getattr(owner, _KEYS[term.key], ""))


# -- why not


def _why_not(world: PolicySet, term: Term, address: Address | None, bound: tuple[Port, ...], depth: int = 0) -> str:
    """What the term wants, and what is there instead."""
    match term:
        case GroupMember(path):
            group = f"group {path.rpartition('/')[2]}"
            if depth >= _SHOWN:
                return group
            return f"{group} ({_why_not(world, world.groups[path].expression, address, bound, depth + 1)})"
        case AnyOf(terms):
            if not terms:
                return "it is empty"
            shown = [_why_not(world, inner, address, bound, depth + 1) for inner in terms[:_SHOWN]]
            return "; ".join(shown) + (f"; {len(terms) - _SHOWN} more" if len(terms) > _SHOWN else "")
        case AllOf(terms):
            failing = [inner for inner in terms if not any(inner.matches(port, world) for port in bound)]
            return _why_not(world, (failing or list(terms))[0], address, bound, depth + 1)
        case Addresses(items):
            shown_items = ", ".join(map(str, items[:_SHOWN]))
            return shown_items + (f" and {len(items) - _SHOWN} more ranges" if len(items) > _SHOWN else "")
        case Condition():
            return f"{condition_name(term)}: {_has_instead(world, term, address, bound)}"
        case PortMember(name):
            return f"port {name}"
        case SegmentMember(name):
            return f"segment {name}"
        case WorkloadMember():
            return f"{term}{_labels_instead(world, bound)}"
        case MacAddresses(items):
            return f"{len(items)} MAC addresses, which layer 3 does not look at"
        case ExternalIds(member_type, items):
            return f"{member_type.value} with the external id {', '.join(items[:_SHOWN])}"
        case _:
            return str(term)


def _labels_instead(world: PolicySet, bound: tuple[Port, ...]) -> str:
    """`: x/a has app=a in a namespace with team=b`; nothing where no workload in a namespace is concerned."""
    port = next((port for port in bound if port.namespace is not None), None)
    if port is None or port.namespace is None:
        return ""
    own = ",".join(f"{key}={value}" for key, value in sorted(port.labels.items())) or "no labels"
    around = ",".join(
        f"{key}={value}" for key, value in sorted(world.inventory.namespace_labels(port.namespace).items())
    )
    return f": {port.name} has {own}, its namespace {around}"


def _has_instead(world: PolicySet, term: Condition, address: Address | None, bound: tuple[Port, ...]) -> str:
    if not bound:
        return f"no vNIC has {address}"
    found = []
    for port in bound[:_SHOWN]:
        owner, name = _owner(world, term, port)
        if term.key is ConditionKey.TAG:
            found.append(f"{name} {owner.name} has {_tags_text(owner.tags)}")
        else:
            found.append(f"{name} {owner.name} has {_attribute(term, owner)!r}")
    return ", ".join(found)
