# SPDX-License-Identifier: Apache-2.0
"""The Supervisor's certificates: made, kept, shown in real handshakes, refused."""

from __future__ import annotations

import ssl
import stat
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from supervisor_glue.auth import pki, signing, tls
from supervisor_glue.auth.kubeconfig import Kubeconfig, KubeconfigError, kubeconfig_read, kubeconfig_write

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    return pki.authority_open(tmp_path / "pki", pki.utc_now())


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> dict[str, Any] | None:
    """A handshake in memory; the server's answer to who the client is. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asks = client.wrap_bio(to_client, to_server, server_hostname=name)
    answers = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (asks, answers):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return answers.getpeercert() or None  # type: ignore[return-value]


def test_the_authority_is_made_once_and_kept_from_others(tmp_path: Path) -> None:
    first = pki.authority_open(tmp_path / "pki", NOW)
    again = pki.authority_open(tmp_path / "pki", NOW + timedelta(days=1))
    assert again.certificate == first.certificate
    assert stat.S_IMODE((tmp_path / "pki" / pki.CA_FILE).stat().st_mode) == 0o600
    assert (tmp_path / "pki" / pki.CA_CERTIFICATE_FILE).read_bytes() == first.pem
    assert {path.name for path in (tmp_path / "pki").iterdir()} == {pki.CA_FILE, pki.CA_CERTIFICATE_FILE}


def test_an_authority_that_is_damaged_is_not_made_anew(tmp_path: Path) -> None:
    first = pki.authority_open(tmp_path, NOW)
    other = pki.authority_open(tmp_path / "other", NOW)
    for bad in (b"", b"x" * 100, first.pem, pki.key_pem(first.key), pki.key_pem(other.key) + first.pem):
        (tmp_path / pki.CA_FILE).write_bytes(bad)
        with pytest.raises(pki.PkiError) as caught:
            pki.authority_open(tmp_path, NOW)
        assert "BEGIN" not in str(caught.value)
        assert (tmp_path / pki.CA_FILE).read_bytes() == bad


def test_what_is_secret_is_in_no_repr(authority: pki.Authority) -> None:
    identity = pki.client_issue(authority, "jane", now=NOW)
    shown = repr(authority) + repr(identity) + repr(Kubeconfig("https://x", b"", "jane", identity, token="s3cret"))
    assert "PRIVATE KEY" not in shown and "s3cret" not in shown and "EllipticCurvePrivateKey" not in shown


@pytest.mark.parametrize("name", ["localhost", "kubernetes.default.svc", "127.0.0.1", "::1", "10.0.0.7", "fd00::7"])
def test_a_client_verifies_the_server_by_each_of_its_names(authority: pki.Authority, tmp_path: Path, name: str) -> None:
    chain = pki.server_open(authority, tmp_path, ["10.0.0.7", "fd00:0::7"], pki.utc_now())
    server = tls.server_context(chain, authority.pem)
    identity = pki.client_issue(authority, "jane", ["team", "shop"], now=pki.utc_now(), uid="u-1")
    peer = handshake(server, tls.client_context(authority.pem, identity), name)
    assert peer is not None
    subject = [pair for part in peer["subject"] for pair in part]
    assert subject == [
        ("organizationName", "team"),
        ("organizationName", "shop"),
        ("commonName", "jane"),
        (pki.UID_OID.dotted_string, "u-1"),
    ]
    assert handshake(server, tls.client_context(authority.pem), name) is None


def test_strangers_end_in_the_handshake(authority: pki.Authority, tmp_path: Path) -> None:
    server = tls.server_context(pki.server_open(authority, tmp_path, [], pki.utc_now()), authority.pem)
    other = pki.authority_open(tmp_path / "other", pki.utc_now())
    theirs = pki.client_issue(other, "jane", now=pki.utc_now())
    past = pki.client_issue(authority, "jane", now=pki.utc_now() - timedelta(days=3), days=1)
    ours = pki.client_issue(authority, "jane", now=pki.utc_now())
    as_server = pki.server_issue(authority, [], pki.utc_now())
    for client in (
        tls.client_context(authority.pem, theirs),
        tls.client_context(authority.pem, past),
        tls.client_context(authority.pem, as_server),
        tls.client_context(other.pem, ours),
    ):
        with pytest.raises(ssl.SSLError):
            handshake(server, client, "localhost")
    with pytest.raises(ssl.SSLError):
        handshake(server, tls.client_context(authority.pem), "elsewhere.example")


def test_the_servers_certificate_is_kept_while_it_fits(authority: pki.Authority, tmp_path: Path) -> None:
    def held(names: list[str], days: float, of: pki.Authority = authority) -> bytes:
        return pki.server_open(of, tmp_path, names, NOW + timedelta(days=days)).read_bytes()

    first = held(["10.0.0.7"], 0)
    assert stat.S_IMODE((tmp_path / pki.SERVER_FILE).stat().st_mode) == 0o600
    assert held(["10.0.0.7"], 240) == first and held([], 240) == first
    renewed = held(["10.0.0.7"], 245)  # two thirds of 365 days are 243.3
    assert renewed != first
    named = held(["10.0.0.8"], 245)
    assert named != renewed
    other = pki.authority_open(tmp_path / "other", NOW)
    assert held(["10.0.0.8"], 245, other) != named


def test_a_servers_new_certificate_is_shown_to_new_connections(authority: pki.Authority, tmp_path: Path) -> None:
    chain = pki.server_open(authority, tmp_path, [], pki.utc_now())
    server = tls.server_context(chain, authority.pem)
    with pytest.raises(ssl.SSLError):
        handshake(server, tls.client_context(authority.pem), "10.9.9.9")
    tls.context_renew(server, pki.server_open(authority, tmp_path, ["10.9.9.9"], pki.utc_now()))
    assert handshake(server, tls.client_context(authority.pem), "10.9.9.9") is None


def test_the_hash_is_kubeadms(authority: pki.Authority) -> None:
    key = authority.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key)
    assert pki.certificate_hash(authority.pem) == f"sha256:{digest.finalize().hex()}"


def test_renewal_is_due_at_two_thirds_and_before_the_start(authority: pki.Authority) -> None:
    pem = pki.client_issue(authority, "jane", now=NOW, days=30).certificate
    certificate = x509.load_pem_x509_certificate(pem)
    assert [pki.is_renewal_due(certificate, NOW + timedelta(days=days)) for days in (-1, 0, 19.9, 20.1, 31)] == [
        True,
        False,
        False,
        True,
        True,
    ]


def test_no_certificate_outlives_its_authority(authority: pki.Authority) -> None:
    pem = pki.client_issue(authority, "jane", now=pki.utc_now() + timedelta(days=3600)).certificate
    assert x509.load_pem_x509_certificate(pem).not_valid_after_utc == authority.certificate.not_valid_after_utc


# Requests.


def test_a_host_gets_the_certificate_it_asked_for(authority: pki.Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    request = signing.request_read(signing.request_make(key, "system:node:esx-1", ["system:nodes"]))
    assert (request.user, request.groups, request.host) == ("system:node:esx-1", ("system:nodes",), "esx-1")
    pem = signing.request_sign(authority, request, now=NOW, seconds=86400, uid="host-uid")
    certificate = x509.load_pem_x509_certificate(pem)
    certificate.verify_directly_issued_by(authority.certificate)
    assert certificate.public_key() == key.public_key()
    assert certificate.subject == pki.subject("system:node:esx-1", ["system:nodes"], "host-uid")
    assert certificate.not_valid_after_utc == NOW + timedelta(days=1)


@pytest.mark.parametrize(
    ("seconds", "life"),
    [
        (None, timedelta(days=365)),
        (1, timedelta(minutes=10)),
        (10**9, timedelta(days=365)),
        (-5, timedelta(minutes=10)),
    ],
)
def test_how_long_is_bounded(authority: pki.Authority, seconds: int | None, life: timedelta) -> None:
    request = signing.request_read(signing.request_make(ec.generate_private_key(ec.SECP256R1()), "jane"))
    pem = signing.request_sign(authority, request, now=NOW, seconds=seconds)
    assert x509.load_pem_x509_certificate(pem).not_valid_after_utc == NOW + life


@pytest.mark.parametrize(
    ("user", "groups", "host"),
    [
        ("system:node:esx-1", ["system:nodes", "system:masters"], ""),
        ("system:node:esx-1", [], ""),
        ("esx-1", ["system:nodes"], ""),
        ("system:node:", ["system:nodes"], ""),
    ],
)
def test_only_the_whole_subject_is_a_hosts(user: str, groups: list[str], host: str) -> None:
    pem = signing.request_make(ec.generate_private_key(ec.SECP256R1()), user, groups)
    assert signing.request_read(pem).host == host


def _request(key: Any, *names: tuple[x509.ObjectIdentifier, str], extension: x509.ExtensionType | None = None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(oid, value) for oid, value in names])
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_requests_that_are_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    jane = (NameOID.COMMON_NAME, "jane")
    alternative = x509.SubjectAlternativeName([x509.DNSName("kubernetes")])
    pem = _request(key, jane)
    der = x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER)
    flipped = der[:-1] + bytes([der[-1] ^ 1])
    bad = {
        "no certificate request": [
            b"",
            b"junk",
            pem[:200],
            b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        ],
        "not signed with its own key": [
            b"-----BEGIN CERTIFICATE REQUEST-----\n" + b64encode(flipped) + b"\n-----END CERTIFICATE REQUEST-----\n"
        ],
        "one common name": [
            _request(key),
            _request(key, jane, jane),
            _request(key, jane, (pki.UID_OID, "uid")),
            _request(key, jane, (NameOID.COUNTRY_NAME, "DE")),
        ],
        "extensions": [
            _request(key, jane, extension=alternative),
            _request(key, jane, extension=x509.BasicConstraints(ca=True, path_length=None)),
        ],
        "the key must be": [_request(rsa.generate_private_key(65537, 1024), jane)],
    }
    for why, requests in bad.items():
        for request in requests:
            with pytest.raises(signing.SigningError, match=why):
                signing.request_read(request)


def test_usages_are_a_clients() -> None:
    signing.usages_check(["client auth", "digital signature"])
    for bad in ([], ["digital signature"], ["client auth", "server auth"], ["client auth", "cert sign"]):
        with pytest.raises(signing.SigningError):
            signing.usages_check(bad)


# Kubeconfigs.


def test_a_kubeconfig_is_whole_and_its_owners(authority: pki.Authority, tmp_path: Path) -> None:
    identity = pki.client_issue(authority, "jane", now=NOW)
    config = Kubeconfig("https://127.0.0.1:6443", authority.pem, "jane", identity, namespace="shop")
    path = tmp_path / "config"
    path.write_text("old")
    path.chmod(0o644)
    kubeconfig_write(path, config)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert kubeconfig_read(path) == config
    document = yaml.safe_load(path.read_text())
    assert document["contexts"][0]["context"] == {"cluster": "palisade", "user": "jane", "namespace": "shop"}
    assert document["current-context"] == document["contexts"][0]["name"]


def test_a_kubeconfig_with_files_beside_it_and_a_token(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(b"ca")
    path = tmp_path / "config"
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://x", "certificate-authority": "ca.crt"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path.write_text(yaml.safe_dump(document))
    assert kubeconfig_read(path) == Kubeconfig("https://x", b"ca", "u", token="t", cluster="k")
    for bad in ("", "[]", "a: [", "current-context: nobody\ncontexts: []", "current-context: c"):
        path.write_text(bad)
        with pytest.raises(KubeconfigError):
            kubeconfig_read(path)
