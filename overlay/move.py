# SPDX-License-Identifier: Apache-2.0
"""A vNIC's connections from host to host: what each of the two agents does of a live migration (DESIGN section 4).

Whoever migrates asks the agents on their sockets, `{"do": "move", "step": S, "vnic": V, …}`, and carries the bytes:

    source bulk     all connections, while packets run
    target import   part by part
    source again    what has changed meanwhile, until that is little; imported, too
    source freeze   its packets wait in its card from here on; the last changes
    target import   that, too
    target since    when its packets ran again (CLOCK_MONOTONIC of the machine)
    source thaw     it stays after all

That the target has the vNIC's rules before, and its card after, is what the hosts' states say (`VnicState.arriving`).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from dfw.core import NO_RULE, CoreError
from dfw.core.export import Export, import_connections
from dfw.core.live import Live
from dfw.layout import RULE_DTYPE
from overlay.cards import VNIC, Cards
from overlay.enforce import HostEnforcer

FROZEN_SECONDS: Final = 5.0  # whoever has not finished a migration by then has gone; it must have given up before


class Moves:
    """The migrations that an agent has a part in. Each step is one call, from one thread at a time."""

    def __init__(self, live: Live, enforcer: HostEnforcer, cards: Cards) -> None:
        self.live, self.enforcer, self.cards = live, enforcer, cards
        self.copied: dict[str, Export] = {}
        self.rules: dict[str, list[int]] = {}
        self.frozen: dict[str, float] = {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A step's answer; `error` where it cannot be done."""
        steps = {
            "bulk": self._bulk,
            "again": self._again,
            "freeze": self._freeze,
            "thaw": self._thaw,
            "import": self._import,
            "since": self._since,
        }
        step, vnic = steps.get(str(request.get("step"))), str(request.get("vnic"))
        number = self.enforcer.number(vnic)
        if step is None:
            return {"error": f"{request.get('step')!r} is no step of a migration"}
        if number is None:
            return {"error": f"there is no vNIC {vnic!r} here"}
        try:
            return step(vnic, number, request)
        except (CoreError, OSError, KeyError, TypeError, ValueError, binascii.Error) as error:
            return {"error": f"{request['step']} of {vnic}: {error}"}

    def _bulk(self, vnic: str, number: int, _: Mapping[str, Any]) -> dict[str, Any]:
        found = self.copied[vnic] = Export(self.live, number)
        return {"rules": self._rules_of(vnic), **_told(found)}

    def _again(self, vnic: str, number: int, _: Mapping[str, Any]) -> dict[str, Any]:
        found = self.copied[vnic] = Export(self.live, number, self.copied[vnic])
        return _told(found)

    def _freeze(self, vnic: str, number: int, _: Mapping[str, Any]) -> dict[str, Any]:
        before = self.copied.pop(vnic)
        self.frozen[vnic] = time.monotonic()
        self.cards.freeze(vnic)
        return {"at": self.frozen[vnic], **_told(Export(self.live, number, before, last=True))}

    def _thaw(self, vnic: str, number: int, _: Mapping[str, Any]) -> dict[str, Any]:
        self.copied.pop(vnic, None)
        self.frozen.pop(vnic, None)
        self.cards.thaw(vnic, number)
        return {}

    def thaw_forgotten(self) -> None:
        """Those whose migration nobody goes on with."""
        now = time.monotonic()
        for vnic in [vnic for vnic, since in self.frozen.items() if now - since > FROZEN_SECONDS]:
            del self.frozen[vnic]
            number = self.enforcer.number(vnic)
            if number is not None:
                with contextlib.suppress(KeyError, CoreError):  # it has left
                    self.cards.thaw(vnic, number)

    def _import(self, vnic: str, number: int, request: Mapping[str, Any]) -> dict[str, Any]:
        if "rules" in request:
            self.rules[vnic] = self._rules_here(request["rules"])
        data = base64.b64decode(request["data"], validate=True)
        taken, refused = import_connections(self.live, number, data, self.rules.get(vnic, []))
        return {"taken": taken, "refused": refused}

    def _since(self, vnic: str, number: int, _: Mapping[str, Any]) -> dict[str, Any]:
        return {"at": self.cards.cards[VNIC + vnic].since}

    def _rules_of(self, vnic: str) -> dict[str, int]:
        """The numbers here of the rules that may have let its connections begin."""
        state = self.enforcer.state
        own = None if state is None else next((item for item in state.vnics if item.name == vnic), None)
        if state is None or own is None:
            return {}
        entries = np.frombuffer(state.tables[own.table].entries, dtype=RULE_DTYPE)
        paths = [state.rules[int(number)].path for number in np.unique(entries["rule"])]
        return {path: self.enforcer.memory.rules[path] for path in paths}

    def _rules_here(self, theirs: Mapping[str, int]) -> list[int]:
        found = [NO_RULE] * (max(theirs.values(), default=-1) + 1)
        for path, number in theirs.items():
            found[number] = self.enforcer.memory.rules.get(path, NO_RULE)
        return found


def _told(export: Export) -> dict[str, Any]:
    return {"count": len(export), "parts": [base64.b64encode(part).decode("ascii") for part in export.parts()]}
