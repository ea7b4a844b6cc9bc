# SPDX-License-Identifier: Apache-2.0
"""Layer-2 rules of compiled vNIC tables -> the rules that frames are asked by. Pure.

A frame says who its ends are by its mark, as packets do (render.py). It is asked where it comes off its sender's card,
before the bridge looks at it, and once more where it leaves for its receiver's, after all that is asked of packets.
DROP ends it; ALLOW, or no rule that matches, lets it go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dfw.compile import CompiledRule
from dfw.compile_ether import EtherCompiled, EtherTable
from dfw.layout import ACTION_DROP, RULE_DST_NEGATED, RULE_SRC_NEGATED
from dfw.nftables.frames import FrameRules, MacSet
from dfw.nftables.names import Numbering, Numbers, tables_numbered
from dfw.nftables.ruleset import Chain, ChainRule, Expression, Hook, VerdictMap
from dfw.nftables.shared import ACCEPT, KNOWN_MARK, OUT, RECEIVER_MASK, REFUSED_MARK, WIRE_SIDES, Side
from dfw.nftables.tables import comment_of, log_of

FRAME_OUT, FRAME_IN = "frame-out", "frame-in"
"""Chains: where a frame's rules begin at each end."""
_OUT_PRIORITY, _IN_PRIORITY = -290, 0  # behind who the ends are, and the guards (overlay/kernel_ends.py)
_SAID_BEFORE: Final = REFUSED_MARK | KNOWN_MARK  # of staged rules
_TAGS: Final = (0x8100, 0x88A8)  # IEEE 802.1Q
_DROPS: Final = 0x100  # beside the flags of an entry
_MARK: Final[Expression] = {"meta": {"key": "mark"}}


EtherKey = tuple[int, bool, bool, int, int, int | None, str]
"""All that a rule of the kernel's is written from: number, sides that are asked for, flags, EtherType, its id if it is
logged, path. Whether it drops is one more flag."""


@dataclass(frozen=True, slots=True)
class EtherWritten:
    """What is asked of frames, None where there is nothing; the rule behind each counter; the tables' numbers; what the
    next time is taken over."""

    frames: FrameRules | None
    rule_of: Mapping[str, CompiledRule]
    names: Numbers
    memo: Mapping[EtherKey, ChainRule]


def ether_write(
    ether: EtherCompiled,
    rules: Sequence[CompiledRule],
    keys: Sequence[str],
    numbers: Numbering,
    vnics: Mapping[str, int],
    sides: Sequence[Side],
    before: Numbers,
    memo: Mapping[EtherKey, ChainRule],
    world: str = "",
) -> EtherWritten:
    """What is asked at these vNICs, by number. `keys`: what each rule is known by; `numbers` gives those their numbers;
    `before`, `memo`: of the time before. A wire is judged once, whichever way a frame goes. `world`: what names begin
    with, where these are staged rules: then they do not act, and frame_staged.py has the chains where frames come in.
    """
    writer = _EtherWriter(rules, keys, numbers, memo, world)
    return writer.write(ether, vnics, sides[:1] if sides is WIRE_SIDES else sides, before)


class _EtherWriter:
    """Writes the rules of one ruleset. `counters`: of the rules that drop something, with the rule."""

    def __init__(
        self,
        rules: Sequence[CompiledRule],
        keys: Sequence[str],
        numbers: Numbering,
        memo: Mapping[EtherKey, ChainRule],
        world: str,
    ) -> None:
        self._rules, self._keys, self._numbers, self._before, self._world = rules, keys, numbers, memo, world
        self._memo: dict[EtherKey, ChainRule] = {}
        self.counters: dict[str, CompiledRule] = {}
        self._sets: dict[str, MacSet] = {}

    def write(
        self, ether: EtherCompiled, vnics: Mapping[str, int], sides: Sequence[Side], before: Numbers
    ) -> EtherWritten:
        """All of them."""
        users: dict[int, list[str]] = {}
        for name in vnics:
            if name in ether.table_of:
                users.setdefault(ether.table_of[name], []).append(name)
        table_number, kept = tables_numbered(users, before)
        chains: list[Chain] = []
        pairs: dict[str, list[tuple[int, str]]] = {}
        for at, names in users.items():
            written = {side.name: tuple(self._side(ether.tables[at], side)) for side in sides}
            is_one = len(sides) > 1 and all(rules == written[OUT.name] for rules in written.values())
            for side in sides:
                if not (rules := written[side.name]):
                    continue
                chain = f"{self._world}ether{table_number[at]}" + ("" if is_one else f"-{side.name}")
                if not is_one or side is sides[0]:
                    chains.append(Chain(chain, rules))
                pairs.setdefault(side.name, []).extend((vnics[name] << side.shift, chain) for name in names)
        if not pairs:
            return EtherWritten(None, {}, kept, {})
        maps = tuple(VerdictMap(f"{self._world}{name}", tuple(sorted(some))) for name, some in pairs.items())
        bases = () if self._world else (_base(side) for side in sides if side.name in pairs)
        frames = FrameRules(tuple(self._sets.values()), maps, tuple(self.counters), (*chains, *bases))
        return EtherWritten(frames, self.counters, kept, self._memo)

    def _side(self, table: EtherTable, side: Side) -> Iterator[ChainRule]:
        """A table's rules for one direction, in order."""
        for at, src_off, src_n, dst_off, dst_n, kind, action, direction, flags, _ in table.entries.tolist():
            if not direction & side.direction:
                continue
            rule, number = self._rules[at], self._numbers.number(self._keys[at])
            for end, first, count in (("src", src_off, src_n), ("dst", dst_off, dst_n)):
                name = f"{self._world}macs{number}-{end}"
                if count and name not in self._sets:
                    self._sets[name] = MacSet(name, tuple(table.macs[first : first + count].tolist()))
            if action == ACTION_DROP:
                self.counters[f"{self._world}rule{number}"] = rule
                flags |= _DROPS
            logged = rule.rule_id if rule.logged else None
            key = (number, bool(src_n), bool(dst_n), flags, kind, logged, rule.path)
            found = self._memo.get(key) or self._before.get(key) or self._rule(key, rule)
            self._memo[key] = found
            yield found

    def _rule(self, key: EtherKey, rule: CompiledRule) -> ChainRule:
        return ChainRule(tuple(_written(key, self._world)), comment_of(rule))


def _written(key: EtherKey, world: str) -> Iterator[Expression]:
    number, has_source, has_destination, flags, kind, logged, _ = key
    # The type is asked first, for a set costs more. But what comes behind a tag's, nft takes for what is in the tag.
    if kind and kind not in _TAGS:
        yield _match("==", "type", kind)
    for end, field, is_asked, negated in (
        ("src", "saddr", has_source, RULE_SRC_NEGATED),
        ("dst", "daddr", has_destination, RULE_DST_NEGATED),
    ):
        if is_asked:
            yield _match("!=" if flags & negated else "==", field, f"@{world}macs{number}-{end}")
    if kind in _TAGS:
        yield _match("==", "type", kind)
    if not flags & _DROPS:
        yield ACCEPT
        return
    counter = f"{world}rule{number}"
    yield {"counter": counter}
    if world:
        yield {"goto": {"target": f"{world}refused"}}
        return
    if logged is not None:
        yield log_of(counter, logged)
    yield {"drop": None}


def _base(side: Side) -> Chain:
    """Where frames come in. What is said of a packet from there on is said for its receiver (shared.py)."""
    hop: Expression = {"vmap": {"key": {"&": [_MARK, side.mask]}, "data": f"@{side.name}"}}
    if side.name == OUT.name:
        return Chain(FRAME_OUT, (ChainRule((hop,)),), Hook("prerouting", _OUT_PRIORITY, "accept"))
    receiver_only: Expression = {"mangle": {"key": _MARK, "value": {"&": [_MARK, _SAID_BEFORE | RECEIVER_MASK]}}}
    return Chain(
        FRAME_IN, (ChainRule((receiver_only,)), ChainRule((hop,))), Hook("postrouting", _IN_PRIORITY, "accept")
    )


def _match(operator: str, field: str, right: int | str) -> Expression:
    left = {"payload": {"protocol": "ether", "field": field}}
    return {"match": {"op": operator, "left": left, "right": right}}
