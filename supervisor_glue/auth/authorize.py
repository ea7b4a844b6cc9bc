# SPDX-License-Identifier: Apache-2.0
"""May they: a host's own part, then roles. Whatever neither allows is forbidden."""

from __future__ import annotations

from typing import Final

from dfw.logs import get_logger
from supervisor_glue.api.status import Object
from supervisor_glue.auth.attributes import Attributes, forbidden
from supervisor_glue.auth.node import NodeAuthorizer
from supervisor_glue.auth.rbac import KINDS, Rbac

FOLLOWED: Final = frozenset({*KINDS, "Pod", "CertificateSigningRequest"})
"""Kinds whose changes `put` and `forget` must be told."""


class Authorizer:
    """The chain. What it knows is what it is told of the API server's objects, in their order."""

    def __init__(self) -> None:
        self.nodes = NodeAuthorizer()
        self.rbac = Rbac()

    def put(self, item: Object) -> None:
        """An object was added or changed. One that nothing can be made of gives nobody anything."""
        try:
            if item["kind"] in KINDS:
                self.rbac.put(item)
            else:
                self.nodes.put(item)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            metadata = item["metadata"]
            self.forget(item["kind"], metadata.get("namespace", ""), metadata["name"])
            get_logger("authorizer").error(
                "object.unreadable", kind=item["kind"], name=metadata["name"], error=repr(error)
            )

    def forget(self, kind: str, namespace: str, name: str) -> None:
        """An object was deleted."""
        if kind in KINDS:
            self.rbac.forget(kind, namespace, name)
        else:
            self.nodes.forget(kind, namespace, name)

    def decide(self, asked: Attributes) -> str | None:
        """None: allowed. Else why not, which may be empty: no role allows it."""
        why = ""
        if asked.user.host:
            refused = self.nodes.decide(asked)
            if refused is None:
                return None
            why = refused
        return None if self.rbac.allows(asked) else why

    def check(self, asked: Attributes) -> None:
        """Raises ApiError 403, with Kubernetes' sentence."""
        why = self.decide(asked)
        if why is not None:
            raise forbidden(asked, why)
