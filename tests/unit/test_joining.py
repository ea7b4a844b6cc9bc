# SPDX-License-Identifier: Apache-2.0
"""How a host gets its certificate: the plan for each request, the controllers, a real handshake with a pinned CA."""

from __future__ import annotations

import asyncio
import stat
import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.auth import pki, tls, tokens
from supervisor_glue.auth.admission import admitted
from supervisor_glue.auth.approval import (
    JOINED,
    REQUESTS,
    Approve,
    Refuse,
    Remove,
    Sign,
    Step,
    Wait,
    plan_request,
    request_certificate,
    request_host,
    request_object,
    request_outcome,
    with_certificate,
    with_condition,
)
from supervisor_glue.auth.attributes import Attributes
from supervisor_glue.auth.authorize import Authorizer
from supervisor_glue.auth.caller import Caller, ServerError, authority_find
from supervisor_glue.auth.defaults import default_roles
from supervisor_glue.auth.joining import KUBECONFIG, host_join, host_renew, host_renewals, is_due
from supervisor_glue.auth.kubeconfig import Kubeconfig, kubeconfig_read, kubeconfig_write
from supervisor_glue.auth.signing import SIGNER_CLIENT, SIGNER_HOST, SigningError, request_make
from supervisor_glue.auth.user import User, user_of_account
from supervisor_glue.controllers.certificates import CertificateController, JoinTokenController
from supervisor_glue.controllers.resources import HOSTS, NAMESPACES, SECRETS
from tests.support.api_served import Api
from tests.support.api_twin import ApiTwin
from tests.support.controlling import running

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
TOKEN = tokens.JoinToken("abcdef", "0123456789abcdef")
JOINING = User("system:bootstrap:abcdef", ("system:bootstrappers", "system:authenticated"))
FOR_ESX1 = User("system:bootstrap:abcdef", ("system:bootstrappers", "system:bootstrappers:host:esx-1"))
ESX1 = User("system:node:esx-1", ("system:nodes", "system:authenticated"), "uid-1")
JANE = User("jane", ("system:authenticated",))
HOST = {"kind": "Host", "metadata": {"name": "esx-1", "uid": "uid-1"}}
JOINED_HOST = {"kind": "Host", "metadata": {"name": "esx-1", "uid": "uid-1", "annotations": {JOINED: "another"}}}
KEY = ec.generate_private_key(ec.SECP256R1())


def request(
    by: User, user: str = "system:node:esx-1", groups: tuple[str, ...] = ("system:nodes",), signer: str = SIGNER_HOST
) -> Object:
    """A request as the server stores it."""
    item = request_object("csr-1", request_make(KEY, user, groups), signer, seconds=86400)
    item["metadata"]["creationTimestamp"] = NOW.isoformat()
    item["spec"] |= {"username": by.name, "groups": list(by.groups)}
    return item


def approved(item: Object, reason: str = "AutoApproved") -> Object:
    return with_condition(item, "Approved", reason, "", NOW)


@pytest.mark.parametrize(
    ("item", "host", "step"),
    [
        (request(JOINING), None, Approve),
        (request(JOINING), HOST, Approve),
        (request(JOINING), JOINED_HOST, Refuse),
        (request(FOR_ESX1), JOINED_HOST, Approve),
        (request(FOR_ESX1, "system:node:esx-2"), None, Refuse),
        (request(ESX1), JOINED_HOST, Approve),
        (request(ESX1), None, Refuse),
        (request(ESX1, "system:node:esx-2"), HOST, Wait),
        (request(JANE), HOST, Wait),
        (request(JANE, "jane", (), SIGNER_CLIENT), None, Wait),
        (request(JOINING, "jane", (), SIGNER_CLIENT), None, Wait),
        (request(JOINING, "jane", ()), None, Refuse),
        (request(JOINING, "system:node:esx-1", ("system:nodes", "system:masters")), None, Refuse),
        (request(JANE, "root", ("system:masters",), SIGNER_CLIENT), None, Refuse),
        (request(JANE, "system:node:esx-1", ("system:nodes",), SIGNER_CLIENT), None, Refuse),
        (request(JANE, signer="example.com/other"), None, Wait),
        (approved(request(JOINING)), HOST, Sign),
        (approved(request(JOINING)), JOINED_HOST, Refuse),
        (approved(request(JANE), "ByHand"), JOINED_HOST, Sign),
        (approved(request(JANE, "jane", (), SIGNER_CLIENT), "ByHand"), None, Sign),
        (approved(request(JANE, "root", ("system:masters",), SIGNER_CLIENT), "ByHand"), None, Refuse),
        (approved(request(JANE, "api", ("palisade:front-proxy",), SIGNER_CLIENT), "ByHand"), None, Refuse),
        (with_condition(request(JOINING), "Denied", "x", "no", NOW), None, Wait),
        (with_certificate(approved(request(JOINING)), b"x"), HOST, Wait),
    ],
)
def test_what_becomes_of_a_request(item: Object, host: Object | None, step: type[Step]) -> None:
    assert isinstance(plan_request(item, host, NOW), step)


def test_bad_requests_are_refused_with_why() -> None:
    item = request(JOINING)
    item["spec"]["request"] = "%"
    assert plan_request(item, None, NOW) == Refuse(
        "SignerValidationFailure", "spec.request is no certificate request in PEM"
    )
    item = request(JOINING)
    item["spec"]["usages"] = ["client auth", "server auth"]
    assert isinstance(plan_request(item, None, NOW), Refuse)
    assert request_host(item) == "esx-1" and request_host(request(JANE, "jane", (), SIGNER_CLIENT)) == ""


def test_requests_do_not_stay_for_ever() -> None:
    done = with_certificate(approved(request(JOINING)), b"x")
    assert plan_request(done, HOST, NOW + timedelta(minutes=59)) == Wait(60)
    assert isinstance(plan_request(done, HOST, NOW + timedelta(hours=1)), Remove)
    assert isinstance(plan_request(request(JANE), None, NOW + timedelta(hours=23)), Wait)
    assert isinstance(plan_request(request(JANE), None, NOW + timedelta(hours=24)), Remove)


def test_the_outcome_of_a_request(tmp_path: Path) -> None:
    authority = pki.authority_open(tmp_path, NOW)
    item = approved(request(JOINING))
    assert request_outcome(item) is None
    pem = request_certificate(authority, item, NOW, "uid-1")
    assert request_outcome(with_certificate(item, pem)) == pem
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.subject == pki.subject("system:node:esx-1", ["system:nodes"], "uid-1")
    assert certificate.not_valid_after_utc == NOW + timedelta(days=1)
    with pytest.raises(SigningError, match="no"):
        request_outcome(with_condition(request(JOINING), "Denied", "x", "no", NOW))


# Who may write what.


@pytest.fixture(scope="module")
def authorizer() -> Authorizer:
    made = Authorizer()
    for item in default_roles():
        made.put(item)
    return made


def _asked(user: User, verb: str, subresource: str = "") -> Attributes:
    return Attributes(user, verb, REQUESTS.group, "v1", REQUESTS.plural, subresource)


def test_a_request_says_who_made_it(authorizer: Authorizer) -> None:
    mine = request(ESX1, "jane", (), SIGNER_CLIENT)
    stored = admitted(authorizer, _asked(JANE, "create"), mine)
    assert stored["spec"]["username"] == "jane" and stored["spec"]["groups"] == ["system:authenticated"]
    changed = {**stored, "spec": {**stored["spec"], "username": "root", "signerName": "other"}}
    assert admitted(authorizer, _asked(JANE, "update"), changed, stored) == stored
    account = user_of_account("shop", "robot", "u", (("k", ("v",)),))
    spec = admitted(authorizer, _asked(account, "create"), mine)["spec"]
    assert (spec["uid"], spec["extra"]) == ("u", {"k": ["v"]})


def test_only_who_may_approve_and_sign_for_a_signer(authorizer: Authorizer) -> None:
    stored = request(JOINING)
    controller = User("c", ("palisade:controllers",))
    for part, item in (("approval", approved(stored)), ("status", with_certificate(stored, b"x"))):
        assert admitted(authorizer, _asked(controller, "update", part), item, stored)["status"] == item["status"]
        with pytest.raises(ApiError) as caught:
            admitted(authorizer, _asked(JANE, "update", part), item, stored)
        assert caught.value.code == 403 and SIGNER_HOST in caught.value.message


# Controllers.


async def _settled_requests(server: ApiTwin, authority: pki.Authority, *items: Object) -> list[Object]:
    """The requests after the controllers have done all they can."""

    def make(client: Any, views: Any) -> list[Any]:
        return [CertificateController(client, views, authority), JoinTokenController(client, views)]

    async with running(server, make) as settled:
        names = []
        for item in items:
            item["metadata"] = {"generateName": "csr-"}
            names.append((await server.create(REQUESTS, item))["metadata"]["name"])
            await settled()
        return [await server.get(REQUESTS, name) for name in names]


def test_a_host_joins_once_and_renews(tmp_path: Path) -> None:
    authority = pki.authority_open(tmp_path, pki.utc_now())
    server = ApiTwin()
    first, second, third = asyncio.run(
        _settled_requests(server, authority, request(JOINING), request(JOINING), request(ESX1))
    )
    host = asyncio.run(server.get(HOSTS, "esx-1"))
    certificate = request_outcome(first)
    assert certificate is not None
    uid = x509.load_pem_x509_certificate(certificate).subject.get_attributes_for_oid(pki.UID_OID)[0].value
    assert uid == host["metadata"]["uid"] and host["metadata"]["annotations"][JOINED] == first["metadata"]["name"]
    with pytest.raises(SigningError, match="has joined already"):
        request_outcome(second)
    renewed = request_outcome(third)
    assert renewed is not None and renewed != certificate
    assert asyncio.run(server.get(HOSTS, "esx-1")) == host


def test_expired_join_tokens_go(tmp_path: Path) -> None:
    server = ApiTwin()

    async def run() -> list[str]:
        await server.create(NAMESPACES, {"metadata": {"name": "kube-system"}})
        now = datetime.fromtimestamp(time.time(), UTC)
        for token, hours in (("aaaaaa", -1), ("bbbbbb", 1)):
            made = tokens.join_secret(tokens.JoinToken(token, "0" * 16), now + timedelta(hours=hours))
            await server.create(SECRETS, made, "kube-system")
        other = {"metadata": {"name": "x"}, "type": "Opaque", "data": {"expiration": b64encode(b"2020-01-01").decode()}}
        await server.create(SECRETS, other, "kube-system")
        async with running(server, lambda client, views: [JoinTokenController(client, views)]) as settled:
            await settled()
        return [item["metadata"]["name"] for item in (await server.list(SECRETS)).items]

    assert asyncio.run(run()) == ["bootstrap-token-bbbbbb", "x"]


# Over the wire.


async def _token_made(api: Api, token: tokens.JoinToken = TOKEN) -> None:
    await api.twin.create(NAMESPACES, {"metadata": {"name": "kube-system"}})
    ends = datetime.fromtimestamp(time.time(), UTC) + timedelta(hours=1)
    await api.twin.create(SECRETS, tokens.join_secret(token, ends), "kube-system")


def test_a_host_joins_and_renews_over_tls(tmp_path: Path) -> None:
    api = Api(tmp_path)
    twin = api.twin

    def controllers(client: Any, views: Any) -> list[Any]:
        return [CertificateController(client, views, api.authority)]

    async def run() -> None:
        async with running(twin, controllers), api.serving() as server:
            await _token_made(api)
            path = await host_join(server, TOKEN, api.pin, "esx-1", tmp_path / "etc")
            assert path == tmp_path / "etc" / KUBECONFIG and stat.S_IMODE(path.stat().st_mode) == 0o600
            config = kubeconfig_read(path)
            assert (config.server, config.user, config.authority) == (server, "system:node:esx-1", api.authority.pem)
            host = await twin.get(HOSTS, "esx-1")
            async with Caller(config) as client:
                now = pki.utc_now()
                assert not is_due(config, now) and await host_renew(client, path, now) is None
                renewed = await host_renew(client, path, now + timedelta(days=61))
            assert renewed is not None and kubeconfig_read(path) == renewed
            assert renewed.identity is not None and config.identity is not None
            assert renewed.identity.key != config.identity.key
            async with Caller(renewed) as client:
                with pytest.raises(ApiError) as refused:
                    await client.get(REQUESTS, host["metadata"]["annotations"][JOINED])  # the join token made that
                assert refused.value.code == 403
                assert (await client.get(HOSTS, "esx-1"))["metadata"]["uid"] == host["metadata"]["uid"]
                await twin.delete(HOSTS, "esx-1")
                api.revocations.host_forget("esx-1")
                with pytest.raises(ApiError) as refused:
                    await client.get(HOSTS, "esx-1")
                assert refused.value.code == 401
            await host_join(server, TOKEN, api.pin, "esx-1", tmp_path / "again")
            with pytest.raises(SigningError, match="has joined already"):
                await host_join(server, TOKEN, api.pin, "esx-1", tmp_path / "other")
            assert not (tmp_path / "other" / KUBECONFIG).exists()
            wrong = tokens.JoinToken("abcdef", "f" * 16)
            with pytest.raises(ApiError) as unauthorized:
                await host_join(server, wrong, api.pin, "esx-2", tmp_path / "other")
            assert unauthorized.value.code == 401

    asyncio.run(run())


def test_a_certificate_of_a_short_life_is_renewed_by_its_own_times(tmp_path: Path) -> None:
    """The signer says how long; whoever renews looks again when that is due, and more often where it fails."""
    api, life = Api(tmp_path), timedelta(seconds=30)

    def controllers(client: Any, views: Any) -> list[Any]:
        return [CertificateController(client, views, api.authority, longest=life)]

    async def run() -> None:
        async with running(api.twin, controllers), api.serving() as server:
            await _token_made(api)
            path = await host_join(server, TOKEN, api.pin, "esx-1", tmp_path / "etc")
            config = kubeconfig_read(path)
            assert config.identity is not None
            held = x509.load_pem_x509_certificate(config.identity.certificate)
            end = held.not_valid_after_utc
            assert (end - held.not_valid_before_utc) == life * 1.1  # dated back by a tenth: clocks differ
            renewals: list[Kubeconfig] = []
            now, slept = held.not_valid_before_utc + life * 0.1, list[float]()

            async def sleep(seconds: float) -> None:
                nonlocal now
                slept.append(seconds)
                now += timedelta(seconds=seconds)
                if len(slept) == 4:
                    raise asyncio.CancelledError

            async def changed(renewed: Kubeconfig) -> None:
                renewals.append(renewed)

            async with Caller(config) as client:
                with pytest.raises(asyncio.CancelledError):
                    await host_renewals(client, path, changed, failed=pytest.fail, now=lambda: now, sleep=sleep)
            assert 19 <= slept[0] <= 22 and now < end + timedelta(hours=1)
            assert renewals and kubeconfig_read(path) == renewals[-1] != config

    asyncio.run(run())


def test_what_cannot_be_renewed_is_tried_again_before_it_ends(tmp_path: Path) -> None:
    authority, now = pki.authority_open(tmp_path, pki.utc_now()), pki.utc_now()
    user, life = "system:node:esx-1", timedelta(seconds=30)
    pem = pki.client_sign(authority, KEY.public_key(), user, ["system:nodes"], now=now, life=life)
    path, slept, failures = tmp_path / "config", list[float](), list[Exception]()
    identity = pki.Identity(pem, pki.key_pem(KEY))
    kubeconfig_write(path, Kubeconfig("https://127.0.0.1:1", authority.pem, user, identity))

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += timedelta(seconds=seconds)
        if len(slept) == 6:
            raise asyncio.CancelledError

    async def changed(renewed: Kubeconfig) -> None:
        pytest.fail("there is nobody to ask")

    async def run() -> None:
        async with Caller(kubeconfig_read(path)) as client:
            await host_renewals(client, path, changed, failed=failures.append, now=lambda: now, sleep=sleep)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run())
    assert len(failures) == 5 and sum(slept[:5]) < 30 and max(slept[1:]) < 3


def test_another_servers_ca_gets_no_token(tmp_path: Path) -> None:
    api = Api(tmp_path)
    other = pki.authority_open(tmp_path / "other", pki.utc_now())

    async def run() -> None:
        async with api.serving() as server:
            assert await asyncio.to_thread(authority_find, server, api.pin) == api.authority.pem
            with pytest.raises(ServerError, match="another server"):
                await asyncio.to_thread(authority_find, server, pki.certificate_hash(other.pem))
            mismatched = server.replace("127.0.0.1", "127.0.0.2")
            with pytest.raises(ServerError):
                await asyncio.to_thread(authority_find, mismatched, api.pin)
            async with Caller(Kubeconfig(server, other.pem, "x", token="t")) as client:
                with pytest.raises(ServerError):
                    await client.get(REQUESTS, "x")
        for bad in ("http://127.0.0.1:1", "127.0.0.1:6443", "https://"):
            with pytest.raises(ValueError):
                authority_find(bad, api.pin)
        with pytest.raises(ServerError):
            await asyncio.to_thread(authority_find, server, api.pin)

    asyncio.run(run())


def test_a_forged_chain_is_no_authority(tmp_path: Path) -> None:
    """A server that shows the real CA in its chain, and has a certificate of its own CA."""
    authority = pki.authority_open(tmp_path / "pki", pki.utc_now())
    other = pki.authority_open(tmp_path / "other", pki.utc_now())
    issued = pki.server_issue(other, [], pki.utc_now())

    async def run() -> None:
        chain = tmp_path / "forged.pem"
        pki.file_write(chain, issued.key + issued.certificate + authority.pem)
        runner = web.AppRunner(web.Application())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls.server_context(chain, other.pem))
        await site.start()
        server = f"https://127.0.0.1:{runner.addresses[0][1]}"
        with pytest.raises(ServerError):
            await asyncio.to_thread(authority_find, server, pki.certificate_hash(authority.pem))
        await runner.cleanup()

    asyncio.run(run())


def test_a_kubeconfig_without_a_certificate_is_not_renewed(tmp_path: Path) -> None:
    path = tmp_path / "config"
    kubeconfig_write(path, Kubeconfig("https://x", b"", "u", token="t"))
    with pytest.raises(ValueError):
        asyncio.run(host_renew(ApiTwin(), path, NOW))
