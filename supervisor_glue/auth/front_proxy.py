# SPDX-License-Identifier: Apache-2.0
"""How an API server that passes a request on says whose it was.

As Kubernetes' aggregation layer (https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/): the
user stands in headers, which are believed of a connection whose certificate is an API server's. No request for a
certificate of that group is signed (auth/approval.py): only who has the CA's key can make one.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from aiohttp import web
from multidict import CIMultiDict

from supervisor_glue.api.status import error_unauthorized
from supervisor_glue.auth.authenticate import Authenticator, Revocations
from supervisor_glue.auth.pki import Authority, Identity, client_issue
from supervisor_glue.auth.tls import identity_load
from supervisor_glue.auth.tokens import TokenKey
from supervisor_glue.auth.user import FRONT_PROXY, User

PROXY_USER: Final = "palisade:api-server"
_NAME, _GROUP, _UID = "X-Remote-User", "X-Remote-Group", "X-Remote-Uid"
_BY_CERTIFICATE: Final = Authenticator(TokenKey(b""), lambda *_: None, lambda _: None, Revocations())


def proxy_issue(authority: Authority, now: datetime) -> Identity:
    """What an API server shows to whom it passes requests on."""
    return client_issue(authority, PROXY_USER, (FRONT_PROXY,), now=now)


def proxied_context(authority: Authority, identity: Identity) -> ssl.SSLContext:
    """Of a server that only API servers talk to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=authority.pem.decode("ascii"))
    identity_load(context, identity)
    return context


def proxied_headers(user: User) -> CIMultiDict[str]:
    """A request's, when it is passed on."""
    headers: CIMultiDict[str] = CIMultiDict({_NAME: user.name})
    for group in user.groups:
        headers.add(_GROUP, group)
    if user.uid:
        headers[_UID] = user.uid
    return headers


def proxied_user(request: web.Request, now: float) -> User:
    """Whose request this was. Raises ApiError 401: it does not come from an API server."""
    transport = request.transport
    peer: Mapping[str, Any] | None = transport.get_extra_info("peercert") if transport is not None else None
    if FRONT_PROXY not in _BY_CERTIFICATE.authenticate(peer, None, now).groups or not request.headers.get(_NAME):
        raise error_unauthorized()
    headers = request.headers
    return User(headers[_NAME], tuple(headers.getall(_GROUP, ())), headers.get(_UID, ""))
