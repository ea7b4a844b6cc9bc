# SPDX-License-Identifier: Apache-2.0
"""A host's state as what the enforcer nftables renders. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dfw.compile import AddressSet, Compiled, CompiledRule, RuleTable
from dfw.compile_ether import EtherCompiled, EtherTable
from dfw.enforcer import timer_seconds
from dfw.errors import UnsupportedError
from dfw.layout import ETHER_DTYPE, RANGE_DTYPE, RULE_DTYPE
from dfw.model import Action, FloodLimits, Tier, Timers
from dfw.nftables.capabilities import ENFORCER
from dfw.nftables.render import NO_ETHER
from overlay.hoststate import EtherState, HostState, RuleState, SetState, StateError, TableState

_TIERS: Final = dict(Tier.__members__)  # an Enum's own look-up takes as long as all the rest
_TIMERS: Final = tuple(timer_seconds(Timers()))
_MAC: Final = np.dtype(np.uint64)
_ACTIONS: Final = dict(Action.__members__)


def unenforced_vnics(state: HostState) -> dict[str, str]:
    """The vNICs of which something is wanted that the kernel does not enforce, each with a sentence that names it.
    overlay/span.py refuses that where the whole policy is known; whoever else tells a host should not, and others'
    vNICs are not to suffer for it: such a vNIC passes nothing."""
    found = {}
    for vnic in state.vnics:
        wanted = (
            ("flood protection", any(vnic.flood)),
            ("session timers other than the default", vnic.timers != _TIMERS),
        )
        names = [name for name, is_so in wanted if is_so]
        if names:
            said = UnsupportedError(ENFORCER, " and ".join(names))
            found[vnic.name] = f"it passes nothing: {said}"
    return found


def host_tables(state: HostState) -> Compiled:
    """The rule tables of the host's vNICs; of those in `unenforced_vnics`, one without rules. Raises StateError for
    what is no table."""
    unenforced = unenforced_vnics(state)
    tables = (*state.tables, TableState(b"", b""))
    table_of = {vnic.name: len(state.tables) if vnic.name in unenforced else vnic.table for vnic in state.vnics}
    ether = _ether(state.ether, {vnic.name: vnic.ether for vnic in state.vnics})
    return _compiled(state.rules, state.sets, tables, table_of, ether)


def staged_tables(state: HostState) -> Compiled | None:
    """Likewise as staged policies would have them; None where there are none. Raises StateError."""
    staged = state.staged
    if staged is None:
        return None
    table_of = {vnic.name: table for vnic, table in zip(state.vnics, staged.table_of, strict=True)}
    # Without any of layer 2 there are no numbers at all.
    lists = {vnic.name: number for vnic, number in zip(state.vnics, staged.ether_of, strict=False)}
    return _compiled(staged.rules, staged.sets, staged.tables, table_of, _ether(staged.ether, lists))


def _ether(lists: Sequence[EtherState], list_of: Mapping[str, int | None]) -> EtherCompiled:
    return EtherCompiled(
        tuple(EtherTable(_rows(item.entries, ETHER_DTYPE), _rows(item.macs, _MAC)) for item in lists),
        {name: number for name, number in list_of.items() if number is not None},
        NO_ETHER.tap,
    )


def _compiled(
    rules: Sequence[RuleState],
    sets: Sequence[SetState],
    tables: Sequence[TableState],
    table_of: Mapping[str, int],
    ether: EtherCompiled,
) -> Compiled:
    """Raises StateError: entries that are of rules, sets or MAC addresses which are not there."""
    made = [
        CompiledRule(
            number,
            rule.rule_id,
            rule.path,
            rule.policy,
            _TIERS[rule.tier],
            _ACTIONS[rule.action],
            rule.logged,
            rule.tag,
        )
        for number, rule in enumerate(rules)
    ]
    nothing = RuleTable(_rows(b"", RULE_DTYPE), _rows(b"", np.dtype(np.uint32)))
    found = tuple(RuleTable(_rows(item.entries, RULE_DTYPE), _rows(item.refs, np.dtype(np.uint32))) for item in tables)
    for number, table in enumerate(found):
        _inside(f"table {number}: a set", table.set_refs, len(sets))
        _entries_inside(f"table {number}", table.entries, len(rules), len(table.set_refs))
    for number, item in enumerate(ether.tables):
        _entries_inside(f"layer-2 table {number}", item.entries, len(rules), len(item.macs))
    return Compiled(
        tuple(made),
        tuple(AddressSet(number, item.name, _rows(item.ranges, RANGE_DTYPE)) for number, item in enumerate(sets)),
        found,
        table_of,
        nothing,
        Timers(),
        {},
        FloodLimits(),
        {},
        ether,
    )


def _entries_inside(where: str, entries: npt.NDArray[Any], rules: int, refs: int) -> None:
    _inside(f"{where}: a rule", entries["rule"], rules)
    for side in ("src", "dst"):
        ends = entries[f"{side}_off"].astype(np.int64) + entries[f"{side}_n"]
        _inside(f"{where}: what a rule refers to", ends[entries[f"{side}_n"] > 0] - 1, refs)


def _inside(what: str, numbers: npt.NDArray[Any], count: int) -> None:
    if len(numbers) and int(numbers.max()) >= count:
        raise StateError(f"{what} is {int(numbers.max())}, of {count}")


def _rows(data: bytes, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if len(data) % dtype.itemsize:
        raise StateError(f"{len(data)} bytes are no rows of {dtype.itemsize}")
    return np.frombuffer(data, dtype=dtype)
