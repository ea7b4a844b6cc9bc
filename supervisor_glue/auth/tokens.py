# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens: of ServiceAccounts (JSON Web Tokens, RFC 7519, signed with HMAC-SHA256: nothing is stored), and those
by which a host joins (`id.secret` as kubeadm has them, of which only a hash is stored).

https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import string
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from supervisor_glue.api.status import Object
from supervisor_glue.auth.pki import PkiError, file_write
from supervisor_glue.auth.user import BOOTSTRAPPERS

KEY_FILE: Final = "token.key"
ISSUER: Final = "https://kubernetes.default.svc.cluster.local"
AUDIENCE: Final = ISSUER
SHORTEST_SECONDS: Final = 600
LONGEST_SECONDS: Final = 366 * 86400
LEEWAY_SECONDS: Final = 60
"""What the clocks of two API servers may differ."""
_KEY_BYTES: Final = 32
_HEADER: Final = {"alg": "HS256", "typ": "JWT"}

JOIN_TYPE: Final = "bootstrap.kubernetes.io/token"
JOIN_NAMESPACE: Final = "kube-system"
JOIN_TOKEN: Final = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
_PAST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ALPHABET: Final = string.ascii_lowercase + string.digits


class TokenError(Exception):
    """Not a token of ours, or not valid at this time. Never says what it held."""


@dataclass(frozen=True, slots=True)
class TokenKey:
    """Signs and checks ServiceAccounts' tokens."""

    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Account:
    """Whose token it is, as of when it was made: a ServiceAccount of the same name made later has another uid."""

    namespace: str
    name: str
    uid: str
    token_id: str


def token_key_open(directory: Path) -> TokenKey:
    """The key of a data directory, made where there is none. Raises PkiError, OSError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / KEY_FILE
    if not path.exists():
        with suppress(FileExistsError):  # another was first: its is the one
            file_write(path, secrets.token_bytes(_KEY_BYTES), replace=False)
    secret = path.read_bytes()
    if len(secret) != _KEY_BYTES:
        raise PkiError(f"{path} holds no key of {_KEY_BYTES} bytes")
    return TokenKey(secret)


def account_token(
    key: TokenKey, account: Account, *, now: float, seconds: int, audiences: Sequence[str] = (AUDIENCE,)
) -> str:
    """A token, as TokenRequest of authentication.k8s.io/v1 gives it."""
    issued = int(now)
    claims = {
        "aud": list(audiences),
        "exp": issued + max(SHORTEST_SECONDS, min(LONGEST_SECONDS, seconds)),
        "iat": issued,
        "nbf": issued,
        "iss": ISSUER,
        "jti": account.token_id,
        "sub": f"system:serviceaccount:{account.namespace}:{account.name}",
        "kubernetes.io": {
            "namespace": account.namespace,
            "serviceaccount": {"name": account.name, "uid": account.uid},
        },
    }
    signed = f"{_part(json.dumps(_HEADER).encode())}.{_part(json.dumps(claims).encode())}"
    return f"{signed}.{_part(_signature(key, signed))}"


def account_read(key: TokenKey, token: str, now: float, audience: str = AUDIENCE) -> Account:
    """Whose token it is. Raises TokenError."""
    signed, _, signature = token.rpartition(".")
    try:
        held = _unpart(signature)
        if not hmac.compare_digest(held, _signature(key, signed)):
            raise TokenError("the signature does not hold")
        header, claims = (json.loads(_unpart(part)) for part in signed.split("."))
        bound = claims["kubernetes.io"]
        account = Account(
            bound["namespace"], bound["serviceaccount"]["name"], bound["serviceaccount"]["uid"], claims["jti"]
        )
        is_valid = claims["nbf"] - LEEWAY_SECONDS <= now < claims["exp"] and claims["iss"] == ISSUER
        is_meant = audience in claims["aud"] and header["alg"] == _HEADER["alg"]
    except (ValueError, KeyError, TypeError, UnicodeEncodeError):
        raise TokenError("this is no token") from None
    if not is_valid or not is_meant:
        raise TokenError("the token is not valid at this time, or for others")
    return account


def _signature(key: TokenKey, signed: str) -> bytes:
    return hmac.digest(key.secret, signed.encode(), "sha256")


def _part(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _unpart(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass(frozen=True, slots=True)
class JoinToken:
    """By which hosts join until it expires."""

    id: str
    secret: str = field(repr=False)

    def __str__(self) -> str:
        """What is typed. It is meant to be shown once, where it was made."""
        return f"{self.id}.{self.secret}"


def join_token_make() -> JoinToken:
    """A new one: 82 bits of secret."""
    return JoinToken(
        "".join(secrets.choice(_ALPHABET) for _ in range(6)), "".join(secrets.choice(_ALPHABET) for _ in range(16))
    )


def join_token_read(text: str) -> JoinToken:
    """Raises TokenError."""
    found = JOIN_TOKEN.fullmatch(text)
    if found is None:
        raise TokenError("a join token is six letters or digits, a dot and sixteen more")
    return JoinToken(found[1], found[2])


def join_secret_name(token_id: str) -> str:
    """Of the Secret that holds it."""
    return f"bootstrap-token-{token_id}"


def join_secret(token: JoinToken, expires: datetime, description: str = "", groups: Sequence[str] = ()) -> Object:
    """The Secret (kube-system) of a token. Where Kubernetes stores the secret itself, this has its SHA-256: who reads
    the Secret cannot join by it."""
    data = {
        "token-id": token.id,
        "token-secret-sha256": _hash(token.secret),
        "expiration": expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "usage-bootstrap-authentication": "true",
        "auth-extra-groups": ",".join(groups),
        "description": description,
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": join_secret_name(token.id), "namespace": JOIN_NAMESPACE},
        "type": JOIN_TYPE,
        "data": {name: b64encode(value.encode()).decode("ascii") for name, value in data.items() if value},
    }


def join_groups(token: JoinToken, secret: Object, now: datetime) -> tuple[str, ...]:
    """The groups of who brings this token, whose Secret it is. Raises TokenError."""
    data = _decoded(secret.get("data") or {})
    held = data.get("token-secret-sha256", "")
    is_same = hmac.compare_digest(held.encode(), _hash(token.secret).encode())
    is_usable = (
        secret.get("type") == JOIN_TYPE
        and not (secret.get("metadata") or {}).get("deletionTimestamp")
        and data.get("token-id") == token.id
        and data.get("usage-bootstrap-authentication") == "true"
    )
    if not is_same or not is_usable or is_join_expired(secret, now):
        raise TokenError("there is no such join token, or it has expired")
    extra = [name for name in data.get("auth-extra-groups", "").split(",") if name.startswith(f"{BOOTSTRAPPERS}:")]
    return (BOOTSTRAPPERS, *extra)


def join_expiry(secret: Object) -> datetime | None:
    """When a join token ends; None: it does not. What is no time has passed."""
    text = _decoded(secret.get("data") or {}).get("expiration", "")
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return _PAST
    return found if found.tzinfo else _PAST


def is_join_expired(secret: Object, now: datetime) -> bool:
    """Whether a join token's Secret is of the past: a controller deletes it."""
    expiry = join_expiry(secret)
    return expiry is not None and now >= expiry


def _decoded(data: Mapping[str, Any]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in data.items():
        with suppress(ValueError, TypeError):
            values[name] = b64decode(value).decode()
    return values


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
