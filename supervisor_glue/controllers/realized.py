# SPDX-License-Identifier: Apache-2.0
"""What is in force: an object is Realized when every host of its span has reported a revision that is not before the
last change of anything the object resolves to (DESIGN, Control plane)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, ClassVar, Final

from supervisor_glue.api.client import Client, Resource
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.controllers.controller import NOT_FOUND, Controller, Now, Triggers
from supervisor_glue.controllers.informer import Views
from supervisor_glue.controllers.intent import POLICY_PREFIX
from supervisor_glue.controllers.objects import (
    condition_of,
    conditions_with,
    key_split,
    name_of,
    status_of,
)
from supervisor_glue.controllers.resources import HOST_STATUSES, NAMESPACES, PODS
from supervisor_glue.controllers.span import Span
from supervisor_glue.pace import Pace

REALIZED: Final = "Realized"
NAMES: Final = 10
WRITES: Final = Pace(seconds=1.0, burst=2)
"""Of one object's status. What is realized, or refused, may follow "not yet" at once; how many are still missing is
told once a second."""
PATIENCE: Final = 0.15
"""Seconds until "not yet" is written: most hosts report sooner, and then one write is enough."""
REFRESH_SECONDS: Final = 0.5
"""After that it is said as of what revision an object is realized that says already that it is. A policy changes
nothing else of its pods: whoever waits for it should not wait for the writes of them all."""
_VNIC: Final = "vnic"
_RESOURCES: Final[dict[str, Resource]] = {
    **{prefix: resource for resource, prefix in POLICY_PREFIX.items()},
    "namespace": NAMESPACES,
    _VNIC: PODS,
}


class RealizedController(Controller):
    """Keys are paths of policies' objects (`np/NS/NAME`), `namespace/NS` and `vnic/NS/POD`."""

    name: ClassVar[str] = "realized"

    def __init__(self, client: Client, views: Views, span: Span, now: Now = time.time) -> None:
        super().__init__(client, views, now)
        self.span = span
        self._waiting: dict[str, set[str]] = {}  # by host: keys that it has not realized
        self._missing: dict[str, set[str]] = {}  # the same by key
        self._due: dict[str, float] = {}  # of WRITES
        self._held: dict[str, tuple[int, float]] = {}  # of what revision "not yet" is held back, and since when
        self._stale: dict[str, float] = {}  # since when only the revision is an old one
        self._without_status: set[Resource] = set()
        self._first = 0
        span.listeners.append(self._compiled)

    def triggers(self) -> Triggers:
        return {HOST_STATUSES: self._concerned}

    def _concerned(self, status: Object) -> set[str]:
        """Whom a host's report may make another at once: what has waited for this host alone, and the vNICs of which it
        has a problem. What waits for others too is looked at in a second: each look goes through all of its hosts, and
        each of those reports."""
        host, reported = name_of(status), _realized(status)
        found = {f"{_VNIC}/{name}" for name in status_of(status).get("problems") or {}}
        for key in list(self._waiting.get(host, ())):
            wanted = self.span.touched.get(key)
            if wanted is not None and reported < wanted:
                continue
            self._waiting[host].discard(key)
            missing = self._missing[key]
            missing.discard(host)
            if missing and wanted is not None:
                self.queue.add_after(key, WRITES.seconds)
            else:
                found.add(key)
        return found

    def _compiled(self, keys: Iterable[str]) -> None:
        self._first = self._first or self.span.revision
        for key in keys:
            if key.partition("/")[0] in _RESOURCES:
                self.queue.add(key)

    async def reconcile(self, key: str) -> float | None:
        kind, _, item_key = key.partition("/")
        resource, (namespace, name) = _RESOURCES[kind], key_split(item_key)
        view = self.views[resource]
        item = view.get(name, namespace)
        wanted = self.span.touched.get(key)
        if item is None or wanted is None or resource in self._without_status:
            self._forget(key)
            return None
        hosts = self.span.hosts_of(key)
        refused, reason = self.span.intent.refused.get((resource, item_key)), "Refused"
        if refused is None and kind == _VNIC:
            refused, reason = self._problem(item_key, hosts), "Problem"
        missing = sorted(host for host in hosts if self._revision(host) < wanted)
        self._wait(key, set(missing))
        is_behind = bool(missing) and refused is None
        held = self._held_back(key, wanted) if is_behind else 0.0
        if held > 0:
            return held
        if wanted <= self._first and not missing and not refused and _stands(item):
            return None  # as the leader before us wrote it
        changed = self._status(item, wanted, hosts, missing, None if refused is None else (reason, refused))
        if changed is None:
            return None
        if not (missing or refused) and _stands(item) and self._stale_for(key) < REFRESH_SECONDS:
            return REFRESH_SECONDS - self._stale_for(key)
        early = WRITES.left(self._due.get(key, 0.0), self.now(), burst=1 if is_behind else None)
        if early > 0:
            return early
        try:
            await self.client.patch(resource, name, {"status": changed}, namespace, "status")
        except ApiError as error:
            if error.code == NOT_FOUND and view.get(name, namespace) is not None:
                # A foreign API server gives this kind no status: HostStatus alone tells then.
                self._without_status.add(resource)
                self.log.info("no-status", resource=resource.plural)
                return None
            raise
        self._stale.pop(key, None)
        self._due[key] = WRITES.after(self._due.get(key, 0.0), self.now())
        return None

    def _stale_for(self, key: str) -> float:
        """Seconds; a clock that was set back begins anew."""
        now = self.now()
        since = self._stale.get(key, now)
        self._stale[key] = min(since, now)
        return now - self._stale[key]

    def _held_back(self, key: str, wanted: int) -> float:
        """For how many seconds still it is not said that this revision is not realized."""
        known, now = self._held.get(key), self.now()
        if known is None or known[0] != wanted:
            known = self._held[key] = wanted, now
        # Not where the clock was set back. (Seconds since 1970 are rounded: what is left may be a bit more than all.)
        return known[1] + PATIENCE - now if known[1] <= now else 0.0

    def _status(
        self, item: Object, wanted: int, hosts: set[str], missing: list[str], wrong: tuple[str, str] | None
    ) -> dict[str, Any] | None:
        """What is to be written; None where it stands there. `wrong`: reason and message of what it will not be."""
        if wrong is not None:
            status, (reason, message) = "False", wrong
        elif missing:
            names = ", ".join(missing[:NAMES]) + (", ..." if len(missing) > NAMES else "")
            status, reason, message = "False", "Pending", f"{len(missing)} of {_hosts(len(hosts))} behind: {names}"
        else:
            status, reason, message = "True", "InForce", f"in force on {_hosts(len(hosts))}"
        old = condition_of(item, REALIZED)
        same = old and (old.get("status"), old.get("reason"), old.get("message")) == (status, reason, message)
        if same and status_of(item).get("inputRevision") == wanted:
            return None
        generation = item["metadata"].get("generation")
        conditions = conditions_with(item, REALIZED, status, reason, message, self.now())
        if generation is not None:
            for condition in conditions:
                if condition["type"] == REALIZED:
                    condition["observedGeneration"] = generation
        return {"inputRevision": wanted, "conditions": conditions}

    def _problem(self, vnic: str, hosts: Iterable[str]) -> str | None:
        """What its host says is wrong with a vNIC: the rules are there, but do not do what they say."""
        reports = (self.views[HOST_STATUSES].get(host) for host in hosts)
        texts = ((status_of(report).get("problems") or {}).get(vnic) for report in reports if report is not None)
        return next((str(text) for text in texts if text), None)

    def _revision(self, host: str) -> int:
        found = self.views[HOST_STATUSES].get(host)
        return 0 if found is None else _realized(found)

    def _wait(self, key: str, missing: set[str]) -> None:
        """For these hosts, and no others."""
        before = self._missing.pop(key, set())
        for host in before - missing:
            self._waiting[host].discard(key)
        for host in missing - before:
            self._waiting.setdefault(host, set()).add(key)
        if missing:
            self._missing[key] = missing

    def _forget(self, key: str) -> None:
        self._due.pop(key, None)
        self._held.pop(key, None)
        self._stale.pop(key, None)
        self._wait(key, set())


def _realized(status: Object) -> int:
    """The revision that a host has reported."""
    return int(status_of(status).get("realizedRevision") or 0)


def _hosts(count: int) -> str:
    return "1 host" if count == 1 else f"{count} hosts"


def _stands(item: Object) -> bool:
    """It says that it is realized, as it is now."""
    condition = condition_of(item, REALIZED)
    return (
        condition is not None
        and condition.get("status") == "True"
        and condition.get("observedGeneration") == item["metadata"].get("generation")
    )
