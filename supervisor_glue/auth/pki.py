# SPDX-License-Identifier: Apache-2.0
"""The Supervisor's own certificate authority (RFC 5280), in its data directory, and the certificates that it signs.

Keys are EC P-256. `ca.pem` holds the CA's key and certificate in one file of mode 0600, made whole or not at all, so
that no crash leaves one without the other; `ca.crt` beside it has the certificate alone. Time is an argument.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_FILE: Final = "ca.pem"
CA_CERTIFICATE_FILE: Final = "ca.crt"
SERVER_FILE: Final = "server.pem"

AUTHORITY_DAYS: Final = 3650
SERVER_DAYS: Final = 365
CLIENT_DAYS: Final = 365
BACKDATED: Final = timedelta(minutes=5)
"""What another machine's clock may be behind."""
UID_OID: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57683.2")
"""A subject's attribute that Kubernetes (1.34) takes as the user's uid."""
SERVER_NAMES: Final = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "127.0.0.1",
    "::1",
)


class PkiError(Exception):
    """A key or certificate cannot be used: a sentence, without the key."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA that can sign."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with its key, both as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def authority_open(directory: Path, now: datetime) -> Authority:
    """The CA of a data directory, made where there is none. Raises PkiError, OSError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / CA_FILE
    if not path.exists():
        made = _authority_make(now)
        with suppress(FileExistsError):  # another was first: its is the one
            file_write(path, key_pem(made.key) + made.pem, replace=False)
    try:
        data = path.read_bytes()
        key = key_read(data)
        authority = Authority(x509.load_pem_x509_certificate(data), key)
    except (ValueError, PkiError):
        raise PkiError(f"{path} holds no EC key with its certificate") from None
    if authority.certificate.public_key() != key.public_key():
        raise PkiError(f"{path}: the key is not the certificate's")
    file_write(directory / CA_CERTIFICATE_FILE, authority.pem, mode=0o644)
    return authority


def _authority_make(now: datetime) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "palisade-supervisor-ca")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key.public_key(), now, timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def server_issue(authority: Authority, names: Iterable[str], now: datetime) -> Identity:
    """The API server's: the names by which it is always called, and these (DNS names and addresses)."""
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in server_names(names)])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "palisade-supervisor")])
    certificate = _leaf(
        authority,
        subject,
        key.public_key(),
        now,
        timedelta(days=SERVER_DAYS),
        [ExtendedKeyUsageOID.SERVER_AUTH],
        [alternatives],
    )
    return Identity(certificate.public_bytes(serialization.Encoding.PEM), key_pem(key))


def server_names(names: Iterable[str]) -> tuple[str, ...]:
    """All names of a server's certificate, each once, addresses as they are written shortest."""
    return tuple(dict.fromkeys(str(_address(name) or name) for name in (*SERVER_NAMES, *names)))


def server_open(authority: Authority, directory: Path, names: Sequence[str], now: datetime) -> Path:
    """The file with the server's key and certificate chain, for a TLS context: the one that is there while it fits and
    is younger than two thirds of its life, else a new one. Raises OSError."""
    path = directory / SERVER_FILE
    if not _server_fits(path, authority, names, now):
        issued = server_issue(authority, names, now)
        file_write(path, issued.key + issued.certificate + authority.pem)
    return path


def _server_fits(path: Path, authority: Authority, names: Sequence[str], now: datetime) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        certificate.verify_directly_issued_by(authority.certificate)
    except (FileNotFoundError, ValueError, TypeError, x509.ExtensionNotFound, InvalidSignature):
        return False
    wanted = {_general_name(name) for name in server_names(names)}
    return wanted <= set(held) and not is_renewal_due(certificate, now)


def client_issue(
    authority: Authority,
    user: str,
    groups: Iterable[str] = (),
    *,
    now: datetime,
    days: int = CLIENT_DAYS,
    uid: str = "",
) -> Identity:
    """A user's certificate, with a new key."""
    key = ec.generate_private_key(ec.SECP256R1())
    signed = client_sign(authority, key.public_key(), user, groups, now=now, life=timedelta(days=days), uid=uid)
    return Identity(signed, key_pem(key))


def client_sign(
    authority: Authority,
    key: CertificatePublicKeyTypes,
    user: str,
    groups: Iterable[str] = (),
    *,
    now: datetime,
    life: timedelta,
    uid: str = "",
) -> bytes:
    """The certificate (PEM) of a user whose key is elsewhere."""
    certificate = _leaf(authority, subject(user, groups, uid), key, now, life, [ExtendedKeyUsageOID.CLIENT_AUTH], [])
    return certificate.public_bytes(serialization.Encoding.PEM)


def subject(user: str, groups: Iterable[str] = (), uid: str = "") -> x509.Name:
    """A user as a certificate's subject: CN is the name, each O a group."""
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, user))
    if uid:
        attributes.append(x509.NameAttribute(UID_OID, uid))
    return x509.Name(attributes)


def is_renewal_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Two thirds of its life are over, or it is not valid yet."""
    return renewal_seconds(certificate, now) <= 0


def renewal_seconds(certificate: x509.Certificate, now: datetime) -> float:
    """Seconds until it is to be renewed; not above 0: that is due."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return (start + (end - start) * 2 / 3 - now).total_seconds() if now >= start else 0.0


def certificate_hash(pem: bytes) -> str:
    """`sha256:…` of the public key, as `kubeadm join --discovery-token-ca-cert-hash` has it (RFC 7469)."""
    certificate = x509.load_pem_x509_certificate(pem)
    info = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return f"sha256:{hashlib.sha256(info).hexdigest()}"


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key as PKCS #8."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_read(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises PkiError, which does not show the key."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise PkiError("this is no EC key")
    return key


def utc_now() -> datetime:
    """The clock."""
    return datetime.now(UTC)


def file_write(path: Path, data: bytes, *, mode: int = 0o600, replace: bool = True) -> None:
    """All of it or nothing, and on the disk. Raises OSError; FileExistsError where it is there and is to stay."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _leaf(
    authority: Authority,
    name: x509.Name,
    key: CertificatePublicKeyTypes,
    now: datetime,
    life: timedelta,
    usages: Sequence[x509.ObjectIdentifier],
    extensions: Sequence[x509.ExtensionType],
) -> x509.Certificate:
    usage = x509.KeyUsage(
        digital_signature=True,
        key_encipherment=True,
        key_cert_sign=False,
        crl_sign=False,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    issuer = authority.certificate
    end = min(now + life, issuer.not_valid_after_utc)
    builder = (
        _builder(name, issuer.subject, key, now, end - now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def _builder(
    name: x509.Name, issuer: x509.Name, key: CertificatePublicKeyTypes, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - min(BACKDATED, life / 10))
        .not_valid_after(now + life)
    )


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _general_name(name: str) -> x509.GeneralName:
    address = _address(name)
    return x509.DNSName(name) if address is None else x509.IPAddress(address)
