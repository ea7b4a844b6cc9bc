# SPDX-License-Identifier: Apache-2.0
"""Every Namespace has a ServiceAccount `default`, and the CA by which its pods know the API
(https://kubernetes.io/docs/concepts/security/service-accounts/#default-service-accounts)."""

from __future__ import annotations

from typing import ClassVar, Final

from supervisor_glue.api.client import Client
from supervisor_glue.api.status import Object
from supervisor_glue.auth.node import ROOT_CA
from supervisor_glue.controllers.controller import Controller, Triggers
from supervisor_glue.controllers.informer import Views
from supervisor_glue.controllers.objects import is_deleted, name_of, namespace_of, object_made
from supervisor_glue.controllers.resources import CONFIG_MAPS, NAMESPACES, SERVICE_ACCOUNTS

DEFAULT: Final = "default"


class AccountController(Controller):
    """Keys are Namespaces. `authority`: the CA's certificate as PEM; empty: none is told."""

    name: ClassVar[str] = "accounts"

    def __init__(self, client: Client, views: Views, authority: bytes = b"") -> None:
        super().__init__(client, views)
        self._authority = authority.decode("ascii")

    def triggers(self) -> Triggers:
        return {
            NAMESPACES: lambda item: [name_of(item)],
            SERVICE_ACCOUNTS: lambda item: [namespace_of(item)] if name_of(item) == DEFAULT else [],
            CONFIG_MAPS: lambda item: [namespace_of(item)] if name_of(item) == ROOT_CA else [],
        }

    async def reconcile(self, key: str) -> float | None:
        namespace = self.views[NAMESPACES].get(key)
        if namespace is None or is_deleted(namespace):
            return None
        if self.views[SERVICE_ACCOUNTS].get(DEFAULT, key) is None:
            await self.created(SERVICE_ACCOUNTS, object_made(SERVICE_ACCOUNTS, DEFAULT, namespace=key), key)
        if self._authority:
            await self._root(key)
        return None

    async def _root(self, namespace: str) -> None:
        data = {"ca.crt": self._authority}
        found = self.views[CONFIG_MAPS].get(ROOT_CA, namespace)
        if found is None:
            wanted: Object = {**object_made(CONFIG_MAPS, ROOT_CA, namespace=namespace), "data": data}
            await self.created(CONFIG_MAPS, wanted, namespace)
        elif found.get("data") != data:
            await self.client.patch(CONFIG_MAPS, ROOT_CA, {"data": data}, namespace)
