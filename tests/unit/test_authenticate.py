# SPDX-License-Identifier: Apache-2.0
"""Who asks: certificates as a handshake shows them, ServiceAccounts' tokens, join tokens."""

from __future__ import annotations

import stat
from base64 import b64decode, b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.auth import tokens
from supervisor_glue.auth.authenticate import Authenticator, Revocations, is_open, user_info
from supervisor_glue.auth.pki import UID_OID
from supervisor_glue.auth.user import AUTHENTICATED, User

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
SECONDS = NOW.timestamp()
KEY = tokens.TokenKey(b"k" * 32)
ACCOUNT = tokens.Account("shop", "robot", "uid-1", "token-1")
JOIN = tokens.JoinToken("abcdef", "0123456789abcdef")


class World:
    """What an API server would look up."""

    def __init__(self) -> None:
        self.accounts = {("shop", "robot"): "uid-1"}
        self.secrets: dict[str, Object] = {}
        self.revocations = Revocations()
        self.authenticator = Authenticator(
            KEY, lambda namespace, name: self.accounts.get((namespace, name)), self.secrets.get, self.revocations
        )

    def user(self, peer: Any = None, header: str | None = None, now: float = SECONDS) -> User | None:
        """None: 401."""
        try:
            return self.authenticator.authenticate(peer, header, now)
        except ApiError as error:
            assert (error.code, error.message) == (401, "Unauthorized")
            return None


@pytest.fixture
def world() -> World:
    return World()


def peer(name: str, *groups: str, uid: str = "", serial: str = "0A") -> dict[str, Any]:
    subject = [(("organizationName", group),) for group in groups] + [(("commonName", name),)]
    if uid:
        subject.append(((UID_OID.dotted_string, uid),))
    return {
        "subject": tuple(subject),
        "serialNumber": serial,
        "notBefore": "Nov 26 00:00:00 2026 GMT",
        "notAfter": "Nov 27 00:00:00 2026 GMT",
    }


def test_a_certificate_is_a_user_with_its_groups(world: World) -> None:
    assert world.user(peer("jane", "team", "shop")) == User("jane", ("team", "shop", AUTHENTICATED))


def test_nobody_is_anonymous(world: World) -> None:
    for header in (
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic amFuZTpwYXNz",
        "Bearer x",
        "Bearer a.b.c",
        "Bearer " + "x" * 99999,
    ):
        assert world.user(None, header) is None
        assert world.user({}, header) is None
    assert [is_open("GET", path) for path in ("/readyz", "/livez", "/healthz")] == [True] * 3
    for method, path in (("GET", "/"), ("GET", "/version"), ("GET", "/readyz/x"), ("POST", "/readyz"), ("GET", "/api")):
        assert not is_open(method, path)


def test_a_connection_outlives_its_certificate_but_its_user_does_not(world: World) -> None:
    assert world.user(peer("jane"), now=SECONDS + 43199) is not None
    assert world.user(peer("jane"), now=SECONDS + 43200) is None
    assert world.user(peer("jane"), now=SECONDS - 50000) is None


@pytest.mark.parametrize(
    "bad",
    [
        {"subject": ()},
        {"subject": ((("commonName", ""),),)},
        {"subject": ((("commonName", "jane"),), (("commonName", "root"),))},
        {"serialNumber": ""},
    ],
)
def test_certificates_that_are_nobodys(world: World, bad: dict[str, Any]) -> None:
    assert world.user(peer("jane") | bad) is None


def test_a_revoked_serial_is_refused(world: World) -> None:
    world.revocations.serials.add(0xAB)
    assert world.user(peer("jane", serial="AB")) is None
    assert world.user(peer("jane", serial="AC")) is not None


def test_a_hosts_certificate_goes_with_its_host(world: World) -> None:
    node = peer("system:node:esx-1", "system:nodes", uid="h-1")
    assert world.user(node) is None  # there is no such Host
    world.revocations.host_put({"metadata": {"name": "esx-1", "uid": "h-1"}})
    found = world.user(node)
    assert found is not None and found.host == "esx-1" and found.uid == "h-1"
    assert world.user(peer("system:node:esx-2", "system:nodes", uid="h-1")) is None
    assert world.user(peer("system:node:esx-1", "system:nodes")) is None
    world.revocations.host_forget("esx-1")
    assert world.user(node) is None
    world.revocations.host_put({"metadata": {"name": "esx-1", "uid": "h-2"}})
    assert world.user(node) is None


def test_only_name_and_group_together_are_a_host() -> None:
    assert User("system:node:esx-1", ("system:nodes",)).host == "esx-1"
    assert User("system:node:esx-1").host == "" and User("esx-1", ("system:nodes",)).host == ""


# ServiceAccounts.


def _token(seconds: int = 3600, key: tokens.TokenKey = KEY, account: tokens.Account = ACCOUNT) -> str:
    return tokens.account_token(key, account, now=SECONDS, seconds=seconds)


def test_a_service_account_is_known_by_its_token(world: World) -> None:
    found = world.user(None, f"Bearer {_token()}")
    assert found is not None
    assert user_info(found) == {
        "username": "system:serviceaccount:shop:robot",
        "uid": "uid-1",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:shop", AUTHENTICATED],
        "extra": {"authentication.kubernetes.io/credential-id": ["JTI=token-1"]},
    }
    assert world.user(None, f"bearer   {_token()}") == found


def test_a_token_ends_by_time_and_with_its_account(world: World) -> None:
    header = f"Bearer {_token(600)}"
    assert world.user(None, header, SECONDS + 599) is not None
    assert world.user(None, header, SECONDS + 600) is None
    assert world.user(None, header, SECONDS - 59) is not None and world.user(None, header, SECONDS - 61) is None
    world.accounts["shop", "robot"] = "uid-2"
    assert world.user(None, header) is None
    del world.accounts["shop", "robot"]
    assert world.user(None, header) is None


def test_a_changed_token_is_none(world: World) -> None:
    token = _token()
    for position in range(0, len(token), 7):
        for letter in "AB.":
            changed = token[:position] + letter + token[position + 1 :]
            if changed != token:
                assert world.user(None, f"Bearer {changed}") is None, position
    head, _, _ = token.split(".")
    none = b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    assert world.user(None, f"Bearer {none}.{token.split('.')[1]}.") is None
    assert world.user(None, f"Bearer {_token(key=tokens.TokenKey(b'x' * 32))}") is None
    with pytest.raises(tokens.TokenError):
        tokens.account_read(KEY, token, SECONDS, "https://elsewhere")
    assert head


def test_how_long_a_token_lives_is_bounded() -> None:
    for asked, lives in ((1, 600), (600, 600), (10**12, tokens.LONGEST_SECONDS)):
        token = _token(asked)
        assert tokens.account_read(KEY, token, SECONDS + lives - 1) == ACCOUNT
        with pytest.raises(tokens.TokenError):
            tokens.account_read(KEY, token, SECONDS + lives)


def test_the_key_is_made_once(tmp_path: Path) -> None:
    key = tokens.token_key_open(tmp_path / "pki")
    assert tokens.token_key_open(tmp_path / "pki") == key and len(key.secret) == 32
    assert stat.S_IMODE((tmp_path / "pki" / tokens.KEY_FILE).stat().st_mode) == 0o600
    assert repr(key.secret) not in repr(key)


# Joining.


def test_a_join_token_is_known_by_its_secrets_hash(world: World) -> None:
    secret = tokens.join_secret(
        JOIN, NOW + timedelta(hours=1), "rack 7", ["system:bootstrappers:rack-7", "system:masters"]
    )
    world.secrets[secret["metadata"]["name"]] = secret
    assert world.user(None, f"Bearer {JOIN}") == User(
        "system:bootstrap:abcdef", ("system:bootstrappers", "system:bootstrappers:rack-7", AUTHENTICATED)
    )
    assert JOIN.secret not in str({key: b64decode(value) for key, value in secret["data"].items()})
    assert JOIN.secret not in repr(JOIN)
    assert world.user(None, "Bearer abcdef.0123456789abcdee") is None
    assert world.user(None, "Bearer abcdeg.0123456789abcdef") is None


@pytest.mark.parametrize(
    "change",
    [
        {"type": "Opaque"},
        {"metadata": {"name": "bootstrap-token-abcdef", "deletionTimestamp": "2026-11-26T11:00:00Z"}},
        {"data": {}},
        {"data": None},
        {"data": {"token-secret-sha256": "%"}},
    ],
)
def test_secrets_that_are_no_join_tokens(world: World, change: Object) -> None:
    secret = tokens.join_secret(JOIN, NOW + timedelta(hours=1)) | change
    world.secrets["bootstrap-token-abcdef"] = secret
    assert world.user(None, f"Bearer {JOIN}") is None


@pytest.mark.parametrize("key", ["usage-bootstrap-authentication", "token-id", "token-secret-sha256"])
def test_a_join_tokens_secret_is_whole(world: World, key: str) -> None:
    secret = tokens.join_secret(JOIN, NOW + timedelta(hours=1))
    del secret["data"][key]
    world.secrets["bootstrap-token-abcdef"] = secret
    assert world.user(None, f"Bearer {JOIN}") is None


def test_a_join_token_expires(world: World) -> None:
    secret = tokens.join_secret(JOIN, NOW + timedelta(hours=1))
    world.secrets["bootstrap-token-abcdef"] = secret
    assert world.user(None, f"Bearer {JOIN}", SECONDS + 3599) is not None
    assert world.user(None, f"Bearer {JOIN}", SECONDS + 3600) is None
    assert tokens.is_join_expired(secret, NOW + timedelta(hours=1)) and not tokens.is_join_expired(secret, NOW)
    secret["data"]["expiration"] = b64encode(b"soon").decode()
    assert tokens.is_join_expired(secret, NOW) and world.user(None, f"Bearer {JOIN}") is None


def test_join_tokens_are_made_and_read() -> None:
    made = tokens.join_token_make()
    assert tokens.join_token_read(str(made)) == made != tokens.join_token_make()
    for bad in (
        "",
        "abcdef",
        "abcdef.",
        "ABCDEF.0123456789abcdef",
        "abcdef.0123456789abcdef ",
        "abcdef.0123456789abcdef0",
    ):
        with pytest.raises(tokens.TokenError):
            tokens.join_token_read(bad)
    assert replace(made, secret="0" * 16) != made
