# SPDX-License-Identifier: Apache-2.0
"""NSX SecurityPolicy documents -> model policies (reference, Part B 3; order: SEMANTICS)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dfw.fields import (
    Cursor,
    Field,
    Written,
    boolean,
    choice,
    ignored,
    integer,
    listed,
    mapping,
    nearest,
    reference,
    text,
    unsupported,
)
from dfw.model import (
    ANY_PEERS,
    BOTH_FAMILIES,
    Action,
    Addresses,
    AddressRange,
    Direction,
    Family,
    GroupMember,
    Peers,
    Policy,
    PolicyKind,
    Rule,
    Schedule,
    Service,
    Term,
    Tier,
    default_policy,
    range_parse,
)
from dfw.nsx.common import COMMON, POLICIES_ROOT, SCHEDULERS_ROOT, Context, is_read_only
from dfw.nsx.service import Services

# NSX's own default section: a document with this id sets our default rules (action, logged).
DEFAULT_SECTION = "default-layer3-section"
DEFAULT_PATH = POLICIES_ROOT + DEFAULT_SECTION
DEFAULT_RULE = "default-layer3-rule"
RULE_ID_LEAST = 1000
_ADDRESS = re.compile(r"[0-9]+\.[0-9.]+(?:[/-].*)?|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*(?:[/%-].*)?", re.ASCII)
# A missing category and an empty one both mean: after the four others (API text of SecurityPolicy.category).
_CATEGORIES = {
    "Ethernet": Tier.ETHERNET,
    "Emergency": Tier.EMERGENCY,
    "Infrastructure": Tier.INFRASTRUCTURE,
    "Environment": Tier.ENVIRONMENT,
    "Application": Tier.APPLICATION,
    "": None,
}
_ACTIONS = {item.value: item for item in Action if item is not Action.PASS}
_DIRECTIONS = {"IN": Direction.IN, "OUT": Direction.OUT, "IN_OUT": Direction.IN_OUT}
_FAMILIES = {
    "IPV4": frozenset({Family.IPV4}),
    "IPV6": frozenset({Family.IPV6}),
    "IPV4_IPV6": BOTH_FAMILIES,
}
# connectivity_preference, and connectivity_strategy, its older name: the action and the logging of a policy's own last
# rule. An allow-list ends in DROP, a deny-list in ALLOW.
_PREFERENCES: Mapping[str, tuple[Action | None, bool]] = {
    "ALLOWLIST": (Action.DROP, False),
    "DENYLIST": (Action.ALLOW, False),
    "ALLOWLIST_ENABLE_LOGGING": (Action.DROP, True),
    "DENYLIST_ENABLE_LOGGING": (Action.ALLOW, True),
    "NONE": (None, False),
}
_STRATEGIES = {
    name.replace("ALLOWLIST", "WHITELIST").replace("DENYLIST", "BLACKLIST"): meaning
    for name, meaning in _PREFERENCES.items()
}
POLICY_DEFAULT_RULE = "default-rule"
_references = listed(reference, empty=False)

RULE: Mapping[str, Field] = {
    **COMMON,
    "action": Field(choice(_ACTIONS), required=True),
    "source_groups": Field(_references),
    "destination_groups": Field(_references),
    "sources_excluded": Field(boolean, default=False),
    "destinations_excluded": Field(boolean, default=False),
    "services": Field(_references),
    "service_entries": Field(listed(lambda item: item), default=()),
    "profiles": Field(unsupported("layer-7 context profiles cannot be matched", ["ANY"])),
    "scope": Field(_references),
    "direction": Field(choice(_DIRECTIONS), default=Direction.IN_OUT),
    "ip_protocol": Field(choice(_FAMILIES), default=BOTH_FAMILIES),
    "logged": Field(boolean, default=False),
    "disabled": Field(boolean, default=False),
    "tag": Field(text(256, empty=True), default=""),
    "notes": Field(text(4096, empty=True)),
    "sequence_number": Field(integer(0, (1 << 31) - 1, "a sequence number")),
    "persist": Field(boolean, default=False),  # ours: connections live on when the rules change (SEMANTICS, Change)
    "rule_id": Field(integer(RULE_ID_LEAST, (1 << 32) - 1, "a rule id")),
}
SECURITY_POLICY: Mapping[str, Field] = {
    **COMMON,
    "category": Field(choice(_CATEGORIES)),
    "sequence_number": Field(integer(0, 999_999, "a sequence number"), default=0),
    "stateful": Field(boolean, default=True),
    "tcp_strict": Field(boolean),
    "scope": Field(_references),
    "rules": Field(listed(lambda item: item), default=()),
    "comments": Field(text(4096, empty=True)),
    "connectivity_preference": Field(choice(_PREFERENCES)),
    "connectivity_strategy": Field(choice(_STRATEGIES)),
    "application_connectivity_strategy": Field(unsupported("write its default rules out")),
    "scheduler_path": Field(reference),
    "logging_enabled": Field(boolean, default=False),
    "staged": Field(boolean, default=False),  # ours: never in force; what it would do is shown
}
_DEFAULT_SECTION_RULE = {key: RULE[key] for key in (*COMMON, "action", "logged", "sequence_number", "rule_id")} | {
    key: Field(ignored)
    for key in ("source_groups", "destination_groups", "services", "scope", "profiles", "direction", "ip_protocol")
    + ("sources_excluded", "destinations_excluded", "disabled", "tag", "notes", "service_entries")
}


def is_staged(cursor: Cursor) -> bool:
    """Does a SecurityPolicy document say so? For the first pass: an enforced and a staged one may have one path."""
    node = cursor.node.get("staged")
    return node is not None and node.value is True


class PolicyReader:
    """Reads policies once groups and services are known. `address_only`: groups that Applied-To refuses. `schedules`:
    by path, None for those with problems of their own."""

    def __init__(
        self,
        context: Context,
        services: Services,
        address_only: frozenset[str],
        schedules: Mapping[str, Schedule | None],
    ) -> None:
        self.context = context
        self.services = services
        self.address_only = address_only
        self.schedules = schedules

    def read(self, path: str, cursor: Cursor) -> Policy | None:
        """A policy with its rules in order of judgement; None, after reporting, where it is no mapping."""
        values = mapping(cursor, SECURITY_POLICY, ignore=is_read_only)
        if values is None:
            return None
        tier = values["category"]
        if tier is Tier.ETHERNET:
            for name in ("stateful", "tcp_strict"):
                if cursor.node.get(name) is not None and values[name]:
                    message = f"{name} has no effect: layer-2 rules are stateless"
                    self.context.warn("no-effect", cursor.member(name), message)
            values["stateful"] = False
        elif values["tcp_strict"] and not values["stateful"]:
            message = "tcp_strict has no effect: the policy is stateless"
            self.context.warn("no-effect", cursor.member("tcp_strict"), message)
        applied_to = self._scope(values["scope"])
        rules = self._rules(path, tier, values["rules"] or (), not applied_to.is_any)
        rules += self._default_rule(path, cursor, values, {rule.id for rule in rules}, applied_to.is_any)
        if values["logging_enabled"]:  # deprecated in NSX, and still over the rules' own word
            rules = tuple(replace(rule, logged=True) for rule in rules)
        return Policy(
            path=path,
            tier=Tier.APPLICATION if tier is None else tier,
            number=values["sequence_number"],
            kind=PolicyKind.NSX,
            name=path,
            uncategorised=tier is None,
            rules=rules,
            stateful=values["stateful"],
            tcp_strict=values["stateful"] and values["tcp_strict"] is not False,
            applied_to=applied_to,
            schedule=self._schedule(values["scheduler_path"]),
            staged=values["staged"],
            place=cursor.place,
        )

    def _schedule(self, written: Written | None) -> Schedule | None:
        if written is None:
            return None
        path = written.text if written.text.startswith("/") else SCHEDULERS_ROOT + written.text
        if path not in self.schedules:
            names = [item.rpartition("/")[2] for item in self.schedules]
            near = nearest(written.text, names, self.context.problems)
            self.context.problem(written, f"there is no scheduler {written.text!r}{near}")
        return self.schedules.get(path)

    def read_default(self, cursor: Cursor) -> Policy | None:
        """NSX's default section: its default rule's action and logging, for our default rules."""
        values = mapping(cursor, SECURITY_POLICY, ignore=is_read_only)
        found: Policy | None = None
        before = len(self.context.problems)
        for item in (values or {}).get("rules") or ():
            rule = mapping(item, _DEFAULT_SECTION_RULE, ignore=is_read_only)
            if rule is None or rule["action"] is None:
                continue
            if (rule["id"] or rule["display_name"]) != DEFAULT_RULE:
                item.problem(f"{DEFAULT_SECTION} holds only the rule {DEFAULT_RULE}")
            elif rule["action"] is Action.JUMP_TO_APPLICATION:
                item.member("action").problem("the default rule ends the search: ALLOW, DROP or REJECT")
            else:
                section = default_policy(rule["action"], rule["logged"])
                found = replace(section, place=cursor.place, staged=bool(values and values["staged"]))
        if values is not None and found is None and len(self.context.problems) == before:
            cursor.problem(f"{DEFAULT_SECTION} needs the rule {DEFAULT_RULE} with its action")
        return found

    def _default_rule(
        self, path: str, cursor: Cursor, values: dict[str, Any], ids: set[str], everywhere: bool
    ) -> tuple[Rule, ...]:
        """The last rule that a connectivity preference adds: from ANY to ANY, where the policy's scope is."""
        words = [name for name in ("connectivity_preference", "connectivity_strategy") if values[name] is not None]
        meanings = {values[name] for name in words}
        if len(meanings) > 1:
            cursor.member(words[1]).problem(f"{words[1]} contradicts {words[0]}; leave it out")
        action, logged = next(iter(meanings), (None, False))
        if action is None:
            return ()
        written = cursor.member(words[0])
        if values["category"] is Tier.ETHERNET:
            written.problem("a default rule is for layer-3 policies only; leave it out for category Ethernet")
        elif everywhere:
            written.problem("a default rule needs the policy's scope: a group with ports")
        elif POLICY_DEFAULT_RULE in ids:
            written.problem(f"its default rule would be {POLICY_DEFAULT_RULE}, but there is a rule of that id")
        rule_path = f"{path}/rules/{POLICY_DEFAULT_RULE}"
        return (Rule(rule_path, POLICY_DEFAULT_RULE, 0, action, logged=logged, place=written.place),)

    def _rules(self, path: str, tier: Tier | None, cursors: tuple[Cursor, ...], overridden: bool) -> tuple[Rule, ...]:
        rules: list[tuple[Rule, Cursor]] = []
        ids: dict[str, Cursor] = {}
        for cursor in cursors:
            values = mapping(cursor, RULE, ignore=is_read_only)
            if values is None:
                continue
            rule_id = self._rule_id(cursor, values)
            first = ids.setdefault(rule_id, cursor)
            if first is not cursor:
                cursor.problem(f"the rule id {rule_id!r} was already given in line {first.place.line}")
            if overridden and values["scope"]:
                message = f"the scope of rule {rule_id} has no effect: the policy's scope overrides it"
                self.context.warn("no-effect", cursor.member("scope"), message)
            rules.append((self._rule(path, rule_id, tier, cursor, values), cursor))
        return self._sorted(rules)

    @staticmethod
    def _rule_id(cursor: Cursor, values: dict[str, Any]) -> str:
        """The rule's id, else its display name. After reporting a problem: one that nobody can write."""
        rule_id = values["id"] or values["display_name"]
        if rule_id is None and cursor.node.get("id") is None:
            cursor.problem("the field id is missing")
        elif rule_id is not None and "/" in rule_id:
            cursor.problem(f"{rule_id!r} is not an id: no '/'")
        else:
            return str(rule_id) if rule_id is not None else f"\0{cursor.path}"
        return f"\0{cursor.path}"

    @staticmethod
    def _sorted(rules: list[tuple[Rule, Cursor]]) -> tuple[Rule, ...]:
        """By (sequence_number, position); a list without numbers keeps its order, a half-numbered one is refused."""
        without = [cursor for rule, cursor in rules if rule.sequence_number is None]
        if without and len(without) < len(rules):
            without[0].problem("sequence_number is missing here but given in other rules of the list; give all or none")
        if without:
            return tuple(rule for rule, _ in rules)
        return tuple(sorted((rule for rule, _ in rules), key=lambda rule: rule.sequence_number or 0))

    def _rule(self, path: str, rule_id: str, tier: Tier | None, cursor: Cursor, values: dict[str, Any]) -> Rule:
        action = values["action"] or Action.DROP
        if tier is Tier.ETHERNET:
            self._check_layer2(cursor, values)
        if action is Action.JUMP_TO_APPLICATION and tier is not Tier.ENVIRONMENT:
            cursor.member("action").problem("JUMP_TO_APPLICATION is for category Environment only")
        if values["path"] is not None and values["path"] != f"{path}/rules/{rule_id}":
            cursor.member("path").problem(f"the rule's path would be {path}/rules/{rule_id}")
        sources, destinations = self._peers(values["source_groups"]), self._peers(values["destination_groups"])
        for side, peers in (("sources", sources), ("destinations", destinations)):
            if values[f"{side}_excluded"] and peers.is_any:
                cursor.member(f"{side}_excluded").problem(f"all but ANY is nobody; name the {side} to exclude")
        return Rule(
            path=f"{path}/rules/{rule_id}",
            id=rule_id,
            number=values["rule_id"] or 0,
            action=action,
            sources=sources,
            destinations=destinations,
            sources_excluded=values["sources_excluded"],
            destinations_excluded=values["destinations_excluded"],
            services=self._services(values, cursor, tier is Tier.ETHERNET),
            direction=values["direction"],
            families=values["ip_protocol"],
            logged=values["logged"],
            tag=values["tag"],
            disabled=values["disabled"],
            applied_to=self._scope(values["scope"]),
            sequence_number=values["sequence_number"],
            persist=values["persist"],
            place=cursor.place,
        )

    def _alone(self, written: tuple[Written, ...] | None, *words: str) -> bool:
        """Is it ANY (or left out)? Reports ANY beside others."""
        for item in written or ():
            if item.text.upper() in words and written is not None and len(written) > 1:
                self.context.problem(item, f"{item.text} stands alone: leave out the others, or it")
                return True
        return not written or written[0].text.upper() in words

    def _peers(self, written: tuple[Written, ...] | None) -> Peers:
        if self._alone(written, "ANY"):
            return ANY_PEERS
        terms: list[Term] = []
        raw: list[AddressRange] = []
        for item in written or ():
            if _ADDRESS.fullmatch(item.text):
                try:
                    raw.append(range_parse(item.text))
                except ValueError as error:
                    self.context.problem(item, str(error))
            elif (path := self.context.group_path(item)) is not None:
                terms.append(GroupMember(path))
        if raw:
            terms.append(Addresses(tuple(raw)))
        return Peers(tuple(terms))

    def _scope(self, written: tuple[Written, ...] | None) -> Peers:
        if self._alone(written, "ANY", "DFW"):
            return ANY_PEERS
        terms: list[Term] = []
        for item in written or ():
            path = self.context.group_path(item)
            if path in self.address_only:
                self.context.problem(item, f"the group {item.text} holds only addresses: Applied-To needs ports")
            elif path is not None:
                terms.append(GroupMember(path))
        return Peers(tuple(terms))

    def _check_layer2(self, cursor: Cursor, values: dict[str, Any]) -> None:
        """A layer-2 rule sees MAC addresses and EtherTypes only, and answers nothing."""
        if values["action"] is Action.REJECT:
            cursor.member("action").problem("a layer-2 rule cannot REJECT: ALLOW or DROP")
        if cursor.node.get("ip_protocol") is not None:
            cursor.member("ip_protocol").problem("a layer-2 rule has no ip_protocol; name EtherTypes in a service")
        for side in ("source_groups", "destination_groups"):
            for item in values[side] or ():
                if _ADDRESS.fullmatch(item.text):
                    self.context.problem(
                        item, f"{item.text} is an address: layer 2 looks at MAC addresses; use a group"
                    )

    def _services(self, values: dict[str, Any], cursor: Cursor, layer2: bool) -> tuple[Service, ...]:
        """Named services and inline entries together. `services: [ANY]` beside entries means the entries (NSX)."""
        found: list[Service] = []
        for written in () if self._alone(values["services"], "ANY") else values["services"]:
            service = self.services.find(written)
            if service is not None:
                self._check_layer(service, written, layer2)
                found.append(service)
        if values["service_entries"]:
            inline = Service("", self.services.entries(values["service_entries"]), cursor.place)
            self._check_layer(inline, Written("service_entries", cursor.member("service_entries").place), layer2)
            found.append(inline)
        return tuple(found)

    def _check_layer(self, service: Service, written: Written, layer2: bool) -> None:
        """EtherTypes are for category Ethernet, everything else for the others."""
        strangers = [entry for entry in service.entries if (entry.ether_type is not None) is not layer2]
        if strangers and layer2:
            message = f"{written.text} has more than EtherTypes; category Ethernet looks at nothing else"
            self.context.problem(written, message)
        elif strangers:
            self.context.problem(written, f"{written.text} has EtherTypes, which are for category Ethernet only")
