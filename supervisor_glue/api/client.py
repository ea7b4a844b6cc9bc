# SPDX-License-Identifier: Apache-2.0
"""What controllers and agents know of an API server: the verbs. They use nothing else of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple, Protocol

from supervisor_glue.api.status import Object


class Resource(NamedTuple):
    """Which collection: `Resource("", "v1", "pods")`."""

    group: str
    version: str
    plural: str

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Of a request; no namespace: the whole collection, or a kind that has none."""
        parts = ["api", self.version] if not self.group else ["apis", self.group, self.version]
        if namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/" + "/".join(parts)


class Listed(NamedTuple):
    """A list as of a revision: a watch goes on from there."""

    items: list[Object]
    revision: str


class WatchEvent(NamedTuple):
    """`ADDED`, `MODIFIED`, `DELETED` or `BOOKMARK`."""

    type: str
    object: Object


class Client(Protocol):
    """An API server's verbs. Every method raises ApiError for a refusal, ConnectionError where nobody answers."""

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object: ...

    async def list(self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "") -> Listed: ...

    def watch(
        self, resource: Resource, revision: str, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        """Changes after `revision`, in order, none left out; ends when the server ends it. Raises ApiError 410 where
        the revision is forgotten."""
        ...

    async def create(
        self, resource: Resource, item: Object, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> Object:
        """`name` and `subresource`: POST to a subresource of that object (`binding`, of a pod)."""
        ...

    async def update(self, resource: Resource, item: Object, subresource: str = "") -> Object:
        """The object's own name and namespace; with its resourceVersion only if it is still at that."""
        ...

    async def patch(
        self, resource: Resource, name: str, patch: Mapping[str, object], namespace: str = "", subresource: str = ""
    ) -> Object:
        """A merge patch (RFC 7396)."""
        ...

    async def apply(
        self, resource: Resource, item: Object, manager: str, *, force: bool = True, subresource: str = ""
    ) -> Object:
        """Server-side apply."""
        ...

    async def delete(
        self, resource: Resource, name: str, namespace: str = "", *, uid: str = "", grace: int | None = None
    ) -> Object:
        """`uid`: only if it is still that one; `grace`: gracePeriodSeconds, 0: at once, None: as the object says."""
        ...
