# SPDX-License-Identifier: Apache-2.0
"""Staged layer-2 rules: asked of frames in the table for these, before those in force, and only counted. Pure.

To drop becomes to remember in the mark, as in staged.py; what is refused going out is remembered up to layer 3, where
no staged rule is asked any more. Both ends have two sums besides, because what layer 2 refuses in force does not come
to layer 3, and what it refuses coming in has been there already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from dfw.nftables.ether import FRAME_IN, FRAME_OUT
from dfw.nftables.frames import FrameRules
from dfw.nftables.ruleset import Chain, ChainRule, Expression, Hook
from dfw.nftables.shared import ACCEPT, KNOWN_MARK, OUT, REFUSED_MARK, WIRE_SIDES, Side
from dfw.nftables.staged import STAGED

FRAMES_WOULD_PASS, FRAMES_PASS_TOO = f"{STAGED}frames-would-pass", f"{STAGED}frames-pass-too"
FRAMES_CUT: Final = f"{STAGED}frames-cut"
FRAME_SUMS: Final = (FRAMES_WOULD_PASS, FRAMES_PASS_TOO, FRAMES_CUT)
"""Counters of frames, at each end: those that the staged rules of layer 2, and whatever was asked before, let pass; of
these, those that layer 2 lets pass in force; those that it lets pass in force only. Of IP going out, layer 3 counts the
last."""
STAGED_OUT, STAGED_IN = f"{STAGED}{FRAME_OUT}", f"{STAGED}{FRAME_IN}"
"""Chains: where a frame's staged rules begin at each end."""
_OUT_PRIORITIES, _IN_PRIORITIES = (-293, -292, -289), (-2, -1, 1)  # around those in force (ether.py)
_IP: Final = (0x0800, 0x86DD)
_MARK: Final[Expression] = {"meta": {"key": "mark"}}
_TYPE: Final[Expression] = {"payload": {"protocol": "ether", "field": "type"}}


def frames_beside(now: FrameRules | None, then: FrameRules | None, sides: Sequence[Side]) -> FrameRules | None:
    """One table of both: `now` in force, `then` staged (ether_write with a world); None where neither asks anything."""
    own = sides[:1] if sides is WIRE_SIDES else sides
    maps = {item.name for some in (now, then) if some is not None for item in some.maps}
    asked = [side for side in own if maps & {side.name, f"{STAGED}{side.name}"}]
    if not asked:
        return None
    both = FrameRules() if now is None else now
    would = FrameRules() if then is None else then
    remember = ChainRule((_with(REFUSED_MARK), ACCEPT))
    chains = [*would.chains, Chain(f"{STAGED}refused", (remember,))]
    for side in asked:
        chains += _hooked(side, is_asked=f"{STAGED}{side.name}" in maps)
    return replace(
        both,
        sets=(*both.sets, *would.sets),
        maps=(*both.maps, *would.maps),
        counters=(*both.counters, *would.counters, *FRAME_SUMS),
        chains=(*both.chains, *chains),
    )


def _hooked(side: Side, *, is_asked: bool) -> Iterator[Chain]:
    """The chains by which frames come to staged rules, and to sums before and behind those in force."""
    is_out = side.name == OUT.name
    name, hook = (STAGED_OUT, "prerouting") if is_out else (STAGED_IN, "postrouting")
    ask, begin, end = _OUT_PRIORITIES if is_out else _IN_PRIORITIES
    hop = ChainRule(({"vmap": {"key": {"&": [_MARK, side.mask]}, "data": f"@{STAGED}{side.name}"}},))
    known = () if is_out else (_refused(_with(KNOWN_MARK), ACCEPT),)
    yield Chain(name, (*known, *((hop,) if is_asked else ())), Hook(hook, ask, "accept"))
    yield Chain(f"{name}-begin", (_refused(ACCEPT), _counted(FRAMES_WOULD_PASS)), Hook(hook, begin, "accept"))
    if is_out:
        of_layer_3 = tuple(_refused(_equal(_TYPE, kind), ACCEPT) for kind in _IP)
        cut = (*of_layer_3, _refused({"counter": FRAMES_CUT}, ACCEPT))
    else:
        anew = _equal({"&": [_MARK, KNOWN_MARK | REFUSED_MARK]}, REFUSED_MARK)
        cut = (ChainRule((anew, {"counter": FRAMES_CUT}, ACCEPT)), _refused(ACCEPT))
    yield Chain(f"{name}-end", (*cut, _counted(FRAMES_PASS_TOO)), Hook(hook, end, "accept"))


def _refused(*effects: Expression) -> ChainRule:
    return ChainRule((_equal({"&": [_MARK, REFUSED_MARK]}, REFUSED_MARK), *effects))


def _counted(counter: str) -> ChainRule:
    return ChainRule(({"counter": counter},))


def _with(bit: int) -> Expression:
    return {"mangle": {"key": _MARK, "value": {"|": [_MARK, bit]}}}


def _equal(left: Any, right: Any) -> Expression:
    return {"match": {"op": "==", "left": left, "right": right}}
