# SPDX-License-Identifier: Apache-2.0
"""The API in memory (tests/support/api_twin.py) behind real TLS, with the production code's answers to who asks and
whether they may. A few verbs, no patches and no watches."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from supervisor_glue.api.client import Resource
from supervisor_glue.api.status import ApiError, Object, error_method
from supervisor_glue.auth import pki, tls, tokens
from supervisor_glue.auth.admission import admitted
from supervisor_glue.auth.attributes import Attributes
from supervisor_glue.auth.authenticate import Authenticator, Revocations
from supervisor_glue.auth.authorize import Authorizer
from supervisor_glue.auth.defaults import default_roles
from supervisor_glue.auth.kubeconfig import Kubeconfig
from supervisor_glue.auth.user import ADMINISTRATORS, User
from supervisor_glue.controllers.resources import HOSTS, SECRETS
from tests.support.api_twin import ApiTwin

VERBS = {"GET": "get", "POST": "create", "PUT": "update"}


class Api:
    """Whoever asks over HTTPS asks `twin`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = pki.authority_open(folder / "pki", pki.utc_now())
        self.twin, self.revocations, self.authorizer = ApiTwin(), Revocations(), Authorizer()
        self.authenticator = Authenticator(
            tokens.TokenKey(b"k" * 32),
            lambda *_: None,
            lambda name: self.twin.objects.get((SECRETS, "kube-system", name)),
            self.revocations,
        )
        for item in default_roles():
            self.authorizer.put(item)
        self.server = ""

    @property
    def pin(self) -> str:
        return pki.certificate_hash(self.authority.pem)

    def administrator(self) -> Kubeconfig:
        """Who may everything."""
        identity = pki.client_issue(self.authority, "admin", [ADMINISTRATORS], now=pki.utc_now())
        return Kubeconfig(self.server, self.authority.pem, "admin", identity)

    def refresh(self) -> None:
        """What a real server learns from its watches."""
        for (resource, namespace, _), item in self.twin.objects.items():
            if resource == HOSTS:
                self.revocations.host_put(item)
            self.authorizer.put(
                {**item, "kind": item.get("kind", ""), "metadata": {"namespace": namespace} | item["metadata"]}
            )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Its URL."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handler(self._answer))
        runner = web.AppRunner(app)
        await runner.setup()
        context = tls.server_context(
            pki.server_open(self.authority, self.folder, [], pki.utc_now()), self.authority.pem
        )
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        self.server = f"https://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self.server
        finally:
            await runner.cleanup()

    def _handler(
        self, work: Callable[[web.Request], Awaitable[Object]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(asked: web.Request) -> web.Response:
            try:
                return web.json_response(await work(asked))
            except ApiError as error:
                return web.json_response(error.status(), status=error.code)

        return handle

    def _user(self, asked: web.Request) -> User:
        assert asked.transport is not None
        peer = asked.transport.get_extra_info("peercert")
        return self.authenticator.authenticate(peer, asked.headers.get("Authorization"), time.time())

    async def _answer(self, asked: web.Request) -> Object:
        user = self._user(asked)
        resource, namespace, name, part = path_read(asked.path)
        if asked.method not in VERBS:
            raise error_method(asked.method)
        attributes = Attributes(
            user, VERBS[asked.method], resource.group, resource.version, resource.plural, part, namespace, name
        )
        self.refresh()
        self.authorizer.check(attributes)
        if asked.method == "GET":
            return await self.twin.get(resource, name, namespace)
        item = await asked.json()
        if asked.method == "POST":
            return await self.twin.create(resource, admitted(self.authorizer, attributes, item), namespace)
        old = await self.twin.get(resource, name, namespace)
        return await self.twin.update(resource, admitted(self.authorizer, attributes, item, old), part)


def path_read(path: str) -> tuple[Resource, str, str, str]:
    """Resource, namespace, name and subresource of a path."""
    parts = path.strip("/").split("/")
    group, version, rest = ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
    namespace = rest[1] if rest[0] == "namespaces" and len(rest) > 2 else ""
    plural, name, part = ((rest[2:] if namespace else rest) + ["", ""])[:3]
    return Resource(group, version, plural), namespace, name, part
