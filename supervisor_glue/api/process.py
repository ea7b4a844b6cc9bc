# SPDX-License-Identifier: Apache-2.0
"""An API server's process: its store, its keys, its listener; from its start until it is told to end."""

from __future__ import annotations

import asyncio
import copy
import ssl
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from aiohttp import web

from dfw.logs import get_logger
from supervisor_glue.api.idle import idle_close
from supervisor_glue.api.kinds import BY_KIND, BY_NAME, NAMESPACES, OURS, Kind
from supervisor_glue.api.leg import LEG, Leg, leg_listen
from supervisor_glue.api.metadata import time_text
from supervisor_glue.api.objects import Objects
from supervisor_glue.api.protocol_log import PROTOCOL_LOG
from supervisor_glue.api.resource import Request, ResourceHandler, Review
from supervisor_glue.api.selectors import EVERYTHING
from supervisor_glue.api.server import ApiServer, Handler
from supervisor_glue.api.status import ApiError, Cause, Object, error_invalid, error_not_found
from supervisor_glue.api.watch_cache import Change, Entry, WatchCache
from supervisor_glue.auth.authenticate import Authenticator, Revocations, user_info
from supervisor_glue.auth.authorize import FOLLOWED, Authorizer
from supervisor_glue.auth.defaults import plan_aggregated, plan_defaults
from supervisor_glue.auth.kubeconfig import Kubeconfig, kubeconfig_write
from supervisor_glue.auth.pki import Authority, authority_open, client_issue, server_open
from supervisor_glue.auth.reviews import access_review, local_access_review, self_access_review, self_rules_review
from supervisor_glue.auth.tls import context_renew, server_context
from supervisor_glue.auth.tokens import (
    AUDIENCE,
    LONGEST_SECONDS,
    SHORTEST_SECONDS,
    Account,
    TokenKey,
    account_token,
    token_key_open,
)
from supervisor_glue.auth.user import ADMINISTRATORS
from supervisor_glue.store import Store, StoreError
from supervisor_glue.store.choice import IN_A_FILE, StoreChoice, store_open

STORE_FILE: Final = "store.db"
COMPACT_SECONDS: Final = 300.0
RENEW_SECONDS: Final = 60.0  # the clock may be set to another time
RECHECK_SECONDS: Final = 5.0
ENDING_SECONDS: Final = 5.0
SYSTEM_NAMESPACES: Final = ("default", "kube-node-lease", "kube-public", "kube-system")
ADMINISTRATOR: Final = "palisade-admin"
_SECRETS: Final = BY_NAME["", "v1", "secrets"]
_ACCOUNTS: Final = BY_NAME["", "v1", "serviceaccounts"]
_PORTS: Final = BY_NAME[OURS, "v1alpha1", "ports"]
_TOKEN_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class Settings:
    """`listen`: addresses and ports; port 0: one that is free. `names`: further ones of the server's certificate.
    `store`: where the objects are; several servers may share one in etcd, and have the same keys in `data`. `leg`:
    None: pods do not reach this server."""

    data: Path
    listen: tuple[tuple[str, int], ...]
    names: tuple[str, ...] = ()
    store: StoreChoice = IN_A_FILE
    leg: Leg | None = None


@dataclass(slots=True)
class ApiProcess:
    """A running API server. Use: `await ApiProcess.start(…)`, … `await process.stop()`."""

    settings: Settings
    store: Store
    cache: WatchCache
    server: ApiServer
    authority: Authority
    runner: web.AppRunner
    objects: Objects
    addresses: list[tuple[str, int]] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    renewing: asyncio.Event = field(default_factory=asyncio.Event)
    refused: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def start(cls, settings: Settings, streams: Mapping[tuple[str, str], Handler] | None = None) -> ApiProcess:
        """Raises OSError, PkiError, StoreError."""
        now = datetime.now(UTC)
        keys = settings.data / "pki"
        authority = authority_open(keys, now)
        token_key = token_key_open(keys)
        store = await store_open(settings.store, settings.data / STORE_FILE)
        cache = WatchCache(store)
        authorizer, revocations = Authorizer(), Revocations()
        cache.listen(lambda change: _follow(authorizer, revocations, change))
        await cache.start()
        objects = Objects(store, cache)
        authenticator = Authenticator(
            token_key,
            lambda namespace, name: _uid(cache.get(_ACCOUNTS, namespace, name)),
            lambda name: _item(cache.get(_SECRETS, "kube-system", name)),
            revocations,
        )
        handler = ResourceHandler(
            objects,
            cache,
            authorizer,
            _reviews(authorizer),
            {("ServiceAccount", "token"): lambda request, item: _token(cache, token_key, request, item)},
        )
        server = ApiServer(cache, handler, authenticator, authorizer, streams=streams)
        runner = web.AppRunner(
            server.application(), access_log=None, logger=PROTOCOL_LOG, shutdown_timeout=ENDING_SECONDS
        )
        await runner.setup()
        process = cls(settings, store, cache, server, authority, runner, objects)
        cache.listen(lambda change: process.refused.set() if _is_host_gone(change) else None)
        await process._defaults()
        hosts = [host for host, _ in settings.listen if host not in ("0.0.0.0", "::", "")]
        process.names = [*hosts, *settings.names]
        chain = server_open(authority, keys, process._names(), now)
        context = server_context(chain, authority.pem)
        for host, port in settings.listen:
            await process._listen(host, port, context)
        if settings.leg is not None:
            await process._stand(settings.leg, context)
        host, port = process.addresses[0]
        server.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        process.tasks.append(asyncio.create_task(process._compact()))
        process.tasks.append(asyncio.create_task(process._renew(context)))
        process.tasks.append(asyncio.create_task(process._recheck()))
        if (held := runner.server) is not None:
            process.tasks.append(asyncio.create_task(idle_close(server.idle, lambda: held.connections)))
        process.tasks.append(asyncio.create_task(process._aggregate(authorizer)))
        get_logger("api").info("api.listening", address=server.address, revision=cache.revision)
        return process

    async def _listen(self, host: str, port: int, context: ssl.SSLContext) -> None:
        site = web.TCPSite(self.runner, host, port, ssl_context=context, reuse_address=True)
        await site.start()
        assert site._server is not None
        self.addresses.append(site._server.sockets[0].getsockname()[:2])  # type: ignore[attr-defined]

    async def _stand(self, leg: Leg, context: ssl.SSLContext) -> None:
        """Listen where the leg is, and say where that is: controllers give it a network. Raises OSError."""
        listening = await asyncio.to_thread(leg_listen, leg)
        await web.SockSite(self.runner, listening, ssl_context=context).start()
        wanted = {"host": leg.host}
        found = self.cache.get(_PORTS, "", LEG)
        if found is None:
            head = {"apiVersion": f"{OURS}/v1alpha1", "kind": "Port", "metadata": {"name": LEG}}
            await self._made(_PORTS, {**head, "spec": wanted})
        elif (found.item.get("spec") or {}).get("host") != leg.host:
            moved = {**found.item, "spec": {**(found.item.get("spec") or {}), **wanted}}
            await self.objects.change(_PORTS, "", LEG, lambda old: copy.deepcopy(moved), _unfinished)
        self.cache.listen(lambda change: self.renewing.set() if _is_leg(change) else None)

    def _names(self) -> list[str]:
        """Of the server's certificate: those that it was told, and where pods reach it."""
        leg = self.cache.get(_PORTS, "", LEG) if self.settings.leg else None
        return [*self.names, *((leg.item.get("spec") or {}).get("ips") or () if leg else ())]

    @property
    def url(self) -> str:
        return f"https://{self.server.address}"

    def kubeconfig(self, path: Path, *, user: str = ADMINISTRATOR, groups: tuple[str, ...] = (ADMINISTRATORS,)) -> None:
        """Write a kubeconfig with a certificate for a user. Raises OSError."""
        identity = client_issue(self.authority, user, groups, now=datetime.now(UTC))
        kubeconfig_write(path, Kubeconfig(self.url, self.authority.pem, user, identity))

    async def stop(self) -> None:
        """Watches end, requests are answered, the store is closed."""
        self.server.end()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.runner.cleanup()
        await self.cache.close()
        await self.store.close()

    async def _defaults(self) -> None:
        """Namespaces and roles that are always there."""
        for name in SYSTEM_NAMESPACES:
            if self.cache.get(NAMESPACES, "", name) is None:
                item: Object = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}}
                await self._made(NAMESPACES, item)
        held = {
            (entry.kind.kind, entry.name): entry.item
            for plural in ("clusterroles", "clusterrolebindings")
            for entry in self.cache.list(BY_NAME["rbac.authorization.k8s.io", "v1", plural])
        }
        changes = plan_defaults(held)
        for wanted in changes.create:
            kind = BY_KIND["rbac.authorization.k8s.io", "v1", wanted["kind"]]
            await self._made(kind, copy.deepcopy(wanted))
        for wanted in changes.update:
            await self._replace(wanted)

    async def _made(self, kind: Kind, item: Object) -> None:
        try:
            await self.objects.create(kind, "", item, _unfinished)
        except ApiError as error:
            if error.code != 409:  # another server of the same store was first
                raise

    async def _replace(self, wanted: Object) -> None:
        kind = BY_KIND["rbac.authorization.k8s.io", "v1", wanted["kind"]]
        item = copy.deepcopy(wanted)
        item["metadata"].pop("resourceVersion", None)
        await self.objects.change(kind, "", wanted["metadata"]["name"], lambda old: item, _unfinished)

    async def _aggregate(self, authorizer: Authorizer) -> None:
        """ClusterRoles that are made of others show what they hold."""
        kind = BY_NAME["rbac.authorization.k8s.io", "v1", "clusterroles"]
        async for _ in self.cache.watch(kind, "", EVERYTHING, None, seconds=1e9):
            while not await self._aggregated(authorizer, kind):
                await asyncio.sleep(RECHECK_SECONDS)

    async def _aggregated(self, authorizer: Authorizer, kind: Kind) -> bool:
        """False: the store could not do it now."""
        held = (entry.item for entry in self.cache.list(kind))
        for wanted in plan_aggregated(authorizer.rbac, held):
            try:
                await self._replace(wanted)
            except ApiError as error:
                if error.code not in (404, 409):
                    raise
            except StoreError as error:
                get_logger("api").error("api.aggregate", role=wanted["metadata"]["name"], error=str(error))
                return False
        return True

    async def _renew(self, context: ssl.SSLContext) -> None:
        """The server's own certificate, at two thirds of its life, and when it is reached elsewhere: connections that
        are open stay."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.renewing.wait(), RENEW_SECONDS)
            self.renewing.clear()
            try:
                chain = server_open(self.authority, self.settings.data / "pki", self._names(), datetime.now(UTC))
                context_renew(context, chain)
            except OSError as error:
                get_logger("api").error("api.renew", error=str(error))

    async def _recheck(self) -> None:
        """Watches end whose users may no longer; a deleted Host's at once."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.refused.wait(), RECHECK_SECONDS)
            self.refused.clear()
            self.server.recheck()

    async def _compact(self) -> None:
        """What was before the last five minutes is forgotten: a watch that begins there lists again."""
        while True:
            try:
                revision = await self.store.revision()
                await asyncio.sleep(COMPACT_SECONDS)
                await self.store.compact(revision)
            except StoreError as error:
                get_logger("api").error("api.compact", error=str(error))
                await asyncio.sleep(RECHECK_SECONDS)


def _is_leg(change: Change) -> bool:
    known = change.after or change.before
    return known is not None and known.kind is _PORTS and known.name == LEG


def _is_host_gone(change: Change) -> bool:
    return change.after is None and change.before is not None and change.before.kind.kind == "Host"


def _unfinished(old: Object | None, new: Object) -> Object:
    return new


def _follow(authorizer: Authorizer, revocations: Revocations, change: Change) -> None:
    known = change.after or change.before
    assert known is not None
    kind = known.kind.kind
    if kind == "Host":
        if change.after is not None:
            revocations.host_put(change.after.item)
        else:
            revocations.host_forget(known.name)
    elif kind in FOLLOWED:
        if change.after is not None:
            authorizer.put(change.after.item)
        else:
            authorizer.forget(kind, known.namespace, known.name)


def _uid(entry: Entry | None) -> str | None:
    return None if entry is None else str(entry.item["metadata"]["uid"])


def _item(entry: Entry | None) -> Object | None:
    return None if entry is None else entry.item


def _reviews(authorizer: Authorizer) -> dict[str, Review]:
    decide = authorizer.decide
    return {
        "SelfSubjectAccessReview": lambda request, item: self_access_review(item, request.user, decide),
        "SubjectAccessReview": lambda request, item: access_review(item, decide),
        "LocalSubjectAccessReview": lambda request, item: local_access_review(item, request.target.namespace, decide),
        "SelfSubjectRulesReview": lambda request, item: self_rules_review(item, request.user, authorizer.rbac),
        "SelfSubjectReview": lambda request, item: {**item, "status": {"userInfo": user_info(request.user)}},
    }


def _token(cache: WatchCache, key: TokenKey, request: Request, item: Object) -> Object:
    """TokenRequest: a ServiceAccount's token."""
    target = request.target
    entry = cache.get(_ACCOUNTS, target.namespace, target.name)
    if entry is None:
        raise error_not_found("serviceaccounts", "", target.name)
    spec = item.get("spec") or {}
    seconds = spec.get("expirationSeconds") if isinstance(spec, dict) else ""
    seconds = _TOKEN_SECONDS if seconds is None else seconds
    audiences = (spec.get("audiences") or [AUDIENCE]) if isinstance(spec, dict) else None
    if (
        not isinstance(seconds, int)
        or isinstance(seconds, bool)
        or not isinstance(audiences, list)
        or not all(isinstance(a, str) for a in audiences)
    ):
        raise ApiError(400, "BadRequest", "TokenRequest: expirationSeconds is a number, audiences a list of text")
    if not SHORTEST_SECONDS <= seconds <= 1 << 32:
        bound = "less than 10 minutes" if seconds < SHORTEST_SECONDS else "larger than 2^32 seconds"
        told = f"Invalid value: {seconds}: may not specify a duration {bound}"
        cause = Cause("FieldValueInvalid", told, "spec.expirationSeconds")
        raise error_invalid("TokenRequest", "authentication.k8s.io", target.name, [cause])
    seconds = min(seconds, LONGEST_SECONDS)
    account = Account(target.namespace, target.name, entry.item["metadata"]["uid"], str(uuid.uuid4()))
    now = time.time()
    token = account_token(key, account, now=now, seconds=seconds, audiences=audiences)
    end = time_text(now + timedelta(seconds=seconds).total_seconds())
    return {
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": target.name, "namespace": target.namespace, "creationTimestamp": time_text(now)},
        "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": spec.get("boundObjectRef")},
        "status": {"token": token, "expirationTimestamp": end},
    }
