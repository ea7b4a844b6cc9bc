# SPDX-License-Identifier: Apache-2.0
"""Who asks: by the certificate that the connection's handshake has verified, else by a bearer token, else nobody."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from supervisor_glue.api.status import Object, error_unauthorized
from supervisor_glue.auth.pki import UID_OID
from supervisor_glue.auth.tokens import (
    JOIN_TOKEN,
    Account,
    TokenError,
    TokenKey,
    account_read,
    join_groups,
    join_secret_name,
    join_token_read,
)
from supervisor_glue.auth.user import AUTHENTICATED, BOOTSTRAP, User, user_of_account

OPEN_PATHS: Final = frozenset({"/healthz", "/livez", "/readyz"})
"""Answered to anybody: load balancers and start-up scripts have no certificate."""
LONGEST_TOKEN: Final = 16384
_seconds = lru_cache(maxsize=1 << 14)(ssl.cert_time_to_seconds)  # of a certificate, asked for at each request
_CREDENTIAL: Final = "authentication.kubernetes.io/credential-id"


@dataclass(slots=True)
class Revocations:
    """Certificates that are valid by date and signature, and are refused: by serial number; and hosts' that are not of
    the Host that there is now. A Host that is deleted takes its certificates with it; one made anew has another uid."""

    serials: set[int] = field(default_factory=set)
    hosts: dict[str, str] = field(default_factory=dict)
    """Each Host's uid by its name: `host_put` and `host_forget` keep it."""

    def host_put(self, item: Object) -> None:
        """A Host was added or changed."""
        self.hosts[item["metadata"]["name"]] = item["metadata"].get("uid", "")

    def host_forget(self, name: str) -> None:
        """A Host was deleted."""
        self.hosts.pop(name, None)

    def holds(self, serial: int, user: User) -> bool:
        """Whether this user's certificate is refused."""
        return serial in self.serials or bool(user.host and self.hosts.get(user.host) != user.uid)


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Answers who asks.

    `account_uid(namespace, name)`: a ServiceAccount's uid, None where there is none. `join_secret(name)`: a Secret of
    kube-system, None where there is none. Both from what the API server has in memory.
    """

    key: TokenKey
    account_uid: Callable[[str, str], str | None]
    join_secret: Callable[[str], Object | None]
    revocations: Revocations

    def authenticate(self, peer: Mapping[str, Any] | None, authorization: str | None, now: float) -> User:
        """The user of a request: `peer` is the connection's verified certificate (ssl.SSLSocket.getpeercert), `now`
        seconds since 1970. Raises ApiError 401, which does not say why."""
        if peer:
            return self._certificate_user(peer, now)
        if authorization is not None:
            kind, _, token = authorization.strip().partition(" ")
            token = token.strip()
            if kind.lower() == "bearer" and 0 < len(token) <= LONGEST_TOKEN:
                return self._token_user(token, now)
        raise error_unauthorized()

    def _certificate_user(self, peer: Mapping[str, Any], now: float) -> User:
        subject = [pair for name in peer.get("subject", ()) for pair in name]
        names = [value for kind, value in subject if kind == "commonName"]
        groups = tuple(value for kind, value in subject if kind == "organizationName")
        uids = [value for kind, value in subject if kind == UID_OID.dotted_string]
        serial = peer.get("serialNumber", "")
        if len(names) != 1 or not names[0] or len(uids) > 1 or not serial:
            raise error_unauthorized()
        # A connection outlives its handshake: the dates are looked at again each time.
        start, end = (_seconds(peer[key]) for key in ("notBefore", "notAfter"))
        user = User(names[0], with_authenticated(groups), uids[0] if uids else "")
        if not start <= now < end or self.revocations.holds(int(serial, 16), user):
            raise error_unauthorized()
        return user

    def _token_user(self, token: str, now: float) -> User:
        try:
            if JOIN_TOKEN.fullmatch(token):
                return self._join_user(token, now)
            return self._account_user(account_read(self.key, token, now))
        except TokenError:
            raise error_unauthorized() from None

    def _account_user(self, account: Account) -> User:
        if self.account_uid(account.namespace, account.name) != account.uid:
            raise error_unauthorized()
        extra = ((_CREDENTIAL, (f"JTI={account.token_id}",)),)
        return user_of_account(account.namespace, account.name, account.uid, extra)

    def _join_user(self, text: str, now: float) -> User:
        token = join_token_read(text)
        secret = self.join_secret(join_secret_name(token.id))
        if secret is None:
            raise error_unauthorized()
        groups = join_groups(token, secret, datetime.fromtimestamp(now, UTC))
        return User(BOOTSTRAP + token.id, with_authenticated(groups))


def with_authenticated(groups: Iterable[str]) -> tuple[str, ...]:
    """The groups of somebody who is known."""
    return tuple(dict.fromkeys((*groups, AUTHENTICATED)))


def is_open(method: str, path: str) -> bool:
    """Whether a request is answered without asking who sends it."""
    return method in ("GET", "HEAD") and path in OPEN_PATHS


def user_info(user: User) -> Object:
    """As SelfSubjectReview shows it."""
    info: Object = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        info["uid"] = user.uid
    if user.extra:
        info["extra"] = {key: list(values) for key, values in user.extra}
    return info
