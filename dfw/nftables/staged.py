# SPDX-License-Identifier: Apache-2.0
"""Staged policies in a ruleset: the rules as they would be, asked before those in force, and only counted. Pure.

What is rendered for the world in which they are in force is written anew here, so that it cannot act: to drop becomes
to remember in the packet's mark that it would have been refused, and whatever else a rule does is left out. OUT and IN
have a hook each, before those in force; what OUT would refuse never comes to IN. The connection's mark has two bits
more, of the ends where a staged stateful rule allowed it, and one that says that it would have been an ALG's.

The kernel has the connections that are in force, no others: what is refused in force is gone, and the next packet of
such a conversation begins it anew in both worlds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from dfw.nftables.ruleset import Chain, ChainRule, Expression, Hook
from dfw.nftables.shared import (
    OUT,
    OWN_COUNTERS,
    REFUSED_MARK,
    SIDES,
    Side,
    goto,
    judged_at,
    keep_chains,
    side_chain,
)
from dfw.nftables.tables import TablePart

STAGED: Final = "staged-"
"""Of all names that belong to staged policies."""
WOULD_PASS, PASSES_TOO, CUT = f"{STAGED}would-pass", f"{STAGED}passes-too", f"{STAGED}cut"
"""Counters of packets: those that the staged rules let pass; of these, those that are let pass in force; those that are
let pass in force only. What would newly pass is the first less the second."""
STAGED_COUNTERS: Final = (
    *(f"{STAGED}{name}" for name in OWN_COUNTERS if name != "reject-rate"),
    *(WOULD_PASS, PASSES_TOO, CUT),
)
"""Counters that staged policies have besides those of their rules."""
KEPT_SHIFT: Final = 2
"""By how much the bits of a connection's mark are shifted that say at which ends rules allowed it."""
_ANNOUNCED: Final = 1 << 4
_OUT_PRIORITY, _IN_PRIORITY, _BEGIN_PRIORITY, _END_PRIORITY = -3, -2, -1, 2
_REFUSED: Final = f"{STAGED}refused"
_MARK: Final[Expression] = {"meta": {"key": "mark"}}
_CT_MARK: Final[Expression] = {"ct": {"key": "mark"}}


def staged_base(sides: Sequence[Side]) -> Iterator[Chain]:
    """The chains by which packets come to staged tables; they refer to the verdict maps of both sides."""
    own = [side for side in sides if sides is SIDES or side.name == OUT.name]
    for side in own:
        yield _staged_side(side)
    yield Chain(f"{STAGED}begin", (_would_be_refused({"accept": None}), ChainRule(({"counter": WOULD_PASS},))))
    yield Chain(f"{STAGED}end", (_would_be_refused({"counter": CUT}, {"accept": None}), _counted(PASSES_TOO)))
    for hook in ("forward", "input") if sides is SIDES else ("forward",):
        # What a vNIC sends to a gateway's own address has no receiver who would judge.
        here = own if hook == "forward" else [OUT]
        for side in here:
            priority = _OUT_PRIORITY if side.name == OUT.name else _IN_PRIORITY
            yield _hooked(hook, side.name, priority, asked=(judged_at(OUT),) if hook == "input" else ())
        yield _hooked(hook, "begin", _BEGIN_PRIORITY)
        yield _hooked(hook, "end", _END_PRIORITY)


def staged_verdicts(sides: Sequence[Side]) -> Iterator[Chain]:
    """The chains to which staged tables refer."""
    remember: Expression = {"mangle": {"key": _MARK, "value": {"|": [_MARK, REFUSED_MARK]}}}
    yield Chain(_REFUSED, (ChainRule((remember, {"accept": None})),))
    for side in sides:
        invalid = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}
        counted: Expression = {"counter": f"{STAGED}invalid"}
        refused = goto(_REFUSED)
        rules = (ChainRule((invalid, counted, *refused.expressions)), refused)
        yield Chain(f"{STAGED}reject-{side.name}", rules)
    for chain in keep_chains(sides):
        for side in sides:
            if chain.name in (f"keep-{side.name}", f"keep-{side.name}-strict"):
                yield staged_chain(chain, side)
                announce = ChainRule((_ct_mark_with(_ANNOUNCED),))
                yield Chain(f"{STAGED}{chain.name}-alg", (announce, goto(f"{STAGED}{chain.name}")))
    yield Chain(f"{STAGED}nobody", (ChainRule(({"accept": None},)),))


def staged_part(part: TablePart, sides: Sequence[Side]) -> TablePart:
    """A table of that world, written with its sides apart."""
    by_name = {side.name: side for side in sides}
    chains = []
    for chain in part.chains:
        owner = next(
            name for name, first in part.of_side.items() if chain.name == first or chain.name.startswith(f"{first}-")
        )
        chains.append(staged_chain(chain, by_name[owner]))
    of_side = {name: f"{STAGED}{chain}" for name, chain in part.of_side.items()}
    return replace(
        part,
        chains=tuple(chains),
        of_side=of_side,
        counters=tuple(f"{STAGED}{name}" for name in part.counters),
        helpers=(),
    )


def staged_chain(chain: Chain, side: Side) -> Chain:
    """A chain of the world in which staged policies are in force, so that it counts only."""
    rules = (ChainRule(tuple(_only_counted(rule.expressions, side)), rule.comment) for rule in chain.rules)
    return Chain(f"{STAGED}{chain.name}", tuple(rule for rule in rules if rule.expressions))


def _staged_side(side: Side) -> Chain:
    """One end; nothing is asked about what layer 2 going out (frame_staged.py), or the sender's end, would refuse."""
    chain = staged_chain(side_chain(side), side)
    return Chain(chain.name, (_would_be_refused({"accept": None}), *chain.rules))


def _only_counted(expressions: Sequence[Expression], side: Side) -> Iterator[Expression]:
    is_alg = any("ct helper" in item for item in expressions)
    for item in expressions:
        ((kind, value),) = item.items()
        match kind:
            case "counter":
                yield {"counter": f"{STAGED}{value}"}
            case "goto" | "jump":
                yield {kind: {"target": _target(value["target"], side, is_alg=is_alg)}}
            case "drop":
                yield {"goto": {"target": _REFUSED}}
            case "accept":
                yield item
            case "vmap":
                yield {"vmap": {"key": value["key"], "data": f"@{STAGED}{value['data'].removeprefix('@')}"}}
            case "mangle" if value["key"] == _CT_MARK:
                yield _ct_mark_with(value["value"]["|"][1] << KEPT_SHIFT)
            case "match" if _masked(value["left"]) == _CT_MARK:
                bits = value["left"]["&"][1] << KEPT_SHIFT
                yield _match(value["op"], {"&": [_CT_MARK, bits]}, value["right"] << KEPT_SHIFT)
            case "match":
                yield item
                if value["right"] == "related" and _lets_pass(expressions):
                    # Another connection that a staged rule without an ALG would not have announced.
                    yield _match("==", {"&": [_CT_MARK, _ANNOUNCED]}, _ANNOUNCED)
            case "log" | "ct helper":
                pass
            case "mangle" if value["key"] == _MARK:
                return  # who sent it is asked about by the rules in force, too
            case _:
                raise ValueError(f"a statement {kind}, which might act")


def _lets_pass(expressions: Sequence[Expression]) -> bool:
    """Is it the rule for connections that an ALG has announced? It lets them pass; others refuse what is related."""
    return "accept" in expressions[-1]


def _target(name: str, side: Side, *, is_alg: bool) -> str:
    if name == "reject":
        return f"{STAGED}reject-{side.name}"
    return f"{STAGED}{name}{'-alg' if is_alg and name.startswith('keep-') else ''}"


def _hooked(hook: str, name: str, priority: int, *, asked: tuple[Expression, ...] = ()) -> Chain:
    rule = ChainRule((*asked, {"goto": {"target": f"{STAGED}{name}"}}))
    return Chain(f"{hook}-{STAGED}{name}", (rule,), Hook(hook, priority, "accept"))


def _would_be_refused(*effects: Expression) -> ChainRule:
    return ChainRule((_match("==", {"&": [_MARK, REFUSED_MARK]}, REFUSED_MARK), *effects))


def _counted(counter: str) -> ChainRule:
    return ChainRule(({"counter": counter},))


def _ct_mark_with(bit: int) -> Expression:
    return {"mangle": {"key": _CT_MARK, "value": {"|": [_CT_MARK, bit]}}}


def _masked(left: Any) -> Any:
    return left["&"][0] if "&" in left else None


def _match(operator: str, left: Any, right: Any) -> Expression:
    return {"match": {"op": operator, "left": left, "right": right}}
