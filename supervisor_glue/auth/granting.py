# SPDX-License-Identifier: Apache-2.0
"""Giving a person access to a Namespace: bound to a role there, known by a certificate that an administrator
approves."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from supervisor_glue.api.client import Resource
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.auth.approval import REQUESTS, request_object, with_condition
from supervisor_glue.auth.caller import Requests
from supervisor_glue.auth.joining import certificate_wait
from supervisor_glue.auth.pki import Identity, key_pem, utc_now
from supervisor_glue.auth.rbac import GROUP
from supervisor_glue.auth.signing import SIGNER_CLIENT, request_make

ROLE_BINDINGS = Resource(GROUP, "v1", "rolebindings")


class Grants(Requests, Protocol):
    """What an administrator's client can."""

    async def update(self, resource: Resource, item: Object, subresource: str = "") -> Object: ...


async def user_bind(client: Grants, user: str, namespace: str, role: str) -> None:
    """A RoleBinding to a ClusterRole; nothing where there is one of the name. Raises ApiError, ConnectionError."""
    binding = {
        "apiVersion": f"{GROUP}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": f"{user}-{role}", "namespace": namespace},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": GROUP, "kind": "User", "name": user}],
    }
    try:
        await client.create(ROLE_BINDINGS, binding, namespace)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        found = await client.get(ROLE_BINDINGS, f"{user}-{role}", namespace)
        if (found["roleRef"], found.get("subjects")) != (binding["roleRef"], binding["subjects"]):
            raise


async def user_certificate(client: Grants, user: str, ttl: timedelta) -> Identity:
    """A new key, and a certificate for it that the client's user has approved. Raises ApiError, ConnectionError,
    SigningError, TimeoutError."""
    key = ec.generate_private_key(ec.SECP256R1())
    asked = request_object(
        "user-", request_make(key, user), SIGNER_CLIENT, seconds=int(ttl.total_seconds()), generate=True
    )
    item = await client.create(REQUESTS, asked)
    while True:
        approved = with_condition(item, "Approved", "Granted", "by palisade supervisor kubeconfig", utc_now())
        try:
            item = await client.update(REQUESTS, approved, "approval")
        except ApiError as error:
            if error.reason != "Conflict":
                raise
            item = await client.get(REQUESTS, item["metadata"]["name"])
            continue
        return Identity(await certificate_wait(client, item), key_pem(key))
