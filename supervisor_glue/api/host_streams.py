# SPDX-License-Identifier: Apache-2.0
"""A host's packet agent, asked through the connection that the host opened: what `palisade show`, `trace` and `capture`
do with `--kubeconfig` (asking.py says what, and who may)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from aiohttp import web

from supervisor_glue.api.kinds import HOSTS
from supervisor_glue.api.request import Target
from supervisor_glue.api.status import error_bad_request, error_not_found
from supervisor_glue.api.streams import PROTOCOLS, Handler, is_websocket, socket_serve
from supervisor_glue.api.watch_cache import WatchCache
from supervisor_glue.asking import AskingError, asked_read, verb_of
from supervisor_glue.auth.attributes import Attributes
from supervisor_glue.auth.authorize import Authorizer
from supervisor_glue.auth.user import User
from supervisor_glue.tunnel import Tunnels


class HostStreams:
    """What `ApiServer` serves of hosts."""

    def __init__(self, cache: WatchCache, tunnels: Tunnels, authorizer: Authorizer) -> None:
        self.cache, self.tunnels, self.authorizer = cache, tunnels, authorizer

    def handlers(self) -> Mapping[tuple[str, str], Handler]:
        return {("Host", "agent"): self.agent}

    async def agent(self, request: web.Request, target: Target, user: User) -> web.StreamResponse:
        """One request. Raises ApiError: 400, 403, 404, 503 where the host is not connected."""
        try:
            asked = asked_read(request.query.get("request", ""))
        except AskingError as error:
            raise error_bad_request(str(error)) from None
        attributes = Attributes(user, "get", HOSTS.group, HOSTS.version, HOSTS.plural, "agent", name=target.name)
        self.authorizer.check(replace(attributes, verb=verb_of(asked)))
        await self.cache.fresh()
        if self.cache.get(HOSTS, "", target.name) is None:
            raise error_not_found(HOSTS.plural, HOSTS.group, target.name)
        self.tunnels.of(target.name)
        if not is_websocket(request):
            raise error_bad_request(f"only WebSocket is spoken here, with {' or '.join(PROTOCOLS)}")
        return await socket_serve(request, await self.tunnels.open(target.name, {"do": "agent", "request": asked}))
