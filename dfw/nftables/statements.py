# SPDX-License-Identifier: Apache-2.0
"""What the tables of a ruleset have in common: chains of rules, maps to them, and statements as they are listed. Pure.

Format: libnftables-json(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

FAMILY: Final = "inet"

Expression = Mapping[str, Any]
"""One statement of a rule: a match or an effect."""


@dataclass(frozen=True, slots=True)
class VerdictMap:
    """A named map from a packet mark to the chain where such packets go (`goto`)."""

    name: str
    chains: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class ChainRule:
    """One rule of a chain; `comment` names the policy's rule that it stands for, empty for none."""

    expressions: tuple[Expression, ...]
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a base chain is called: name and priority as in nft(8); `policy`: what becomes of a packet at its end."""

    name: str
    priority: int
    policy: str


@dataclass(frozen=True, slots=True)
class Chain:
    """A list of rules; a base chain has a hook."""

    name: str
    rules: tuple[ChainRule, ...]
    hook: Hook | None = None


def rule_json(table: str, chain: str, rule: ChainRule, family: str = FAMILY) -> dict[str, Any]:
    """A rule at the end of a chain."""
    comment = {"comment": rule.comment} if rule.comment else {}
    return {"family": family, "table": table, "chain": chain, **comment, "expr": list(rule.expressions)}


def pairs_json(chains: Iterable[tuple[int, str]]) -> list[Any]:
    """Elements of a verdict map."""
    return [[mark, {"goto": {"target": chain}}] for mark, chain in chains]


def chain_json(table: str, chain: Chain, family: str = FAMILY) -> dict[str, Any]:
    """A chain without its rules."""
    at = {"family": family, "table": table, "name": chain.name}
    if chain.hook is None:
        return at
    return {**at, "type": "filter", "hook": chain.hook.name, "prio": chain.hook.priority, "policy": chain.hook.policy}


def chain_parse(value: Mapping[str, Any]) -> Chain:
    """A listed chain, without its rules."""
    hook = Hook(value["hook"], value["prio"], value["policy"]) if "hook" in value else None
    return Chain(value["name"], (), hook)


def map_parse(value: Mapping[str, Any]) -> VerdictMap:
    """A listed verdict map."""
    pairs = sorted((mark, verdict["goto"]["target"]) for mark, verdict in value.get("elem", ()))
    return VerdictMap(value["name"], tuple(pairs))


# What -nn lists as numbers, by the key that it belongs to.
_WORDS: Final[Mapping[str, Mapping[int, str]]] = {
    "state": {1: "invalid", 2: "established", 4: "related", 8: "new", 64: "untracked"},
    "direction": {0: "original", 1: "reply"},
    "nfproto": {2: "ipv4", 10: "ipv6"},
}


def expression_parse(expression: Any) -> Expression:
    """A listed statement as we write it: words for states, directions and families, one number for a set of bits."""
    found: dict[str, Any] = dict(expression)
    if "match" in found:
        match = dict(found["match"])
        match["left"], key = _left_parse(match["left"])
        match["right"] = _right_parse(match["right"], key)
        found["match"] = match
    elif "set" in found:
        found["set"] = {**found["set"], "elem": _key_parse(found["set"]["elem"])}
    elif found.get("reject", {}).get("type") == "icmpx":
        found["reject"] = {"type": "icmpx", "expr": "admin-prohibited"} if found["reject"]["expr"] == 3 else {}
    return found


def _key_parse(key: Any) -> Any:
    """A meter's key: bits of a mark are one number, a prefix's stay an address."""
    if "concat" in key:
        return {"concat": list(map(_key_parse, key["concat"]))}
    if "&" in key:
        value, bits = key["&"]
        return {"&": [value, bits if isinstance(bits, str) else _bits(bits)]}
    return key


def _left_parse(left: Any) -> tuple[Any, str]:
    if "&" in left:
        value, bits = left["&"]
        return {"&": [value, _bits(bits)]}, "bits"
    (kind,) = left
    return left, left[kind].get("key", "") if kind in ("ct", "meta") else ""


def _bits(value: Any) -> int:
    """A number that is listed as itself, as its single bits, or as these joined by `|`."""
    if isinstance(value, list):
        return sum(map(_bits, value))
    return sum(map(_bits, value["|"])) if isinstance(value, dict) else int(value)


def _right_parse(right: Any, key: str) -> Any:
    if key == "bits":
        return right if isinstance(right, dict) else _bits(right)
    words = _WORDS.get(key)
    if words is None:
        return right
    return [words[item] for item in right] if isinstance(right, Sequence) else words[right]
