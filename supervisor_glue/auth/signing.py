# SPDX-License-Identifier: Apache-2.0
"""Requests for certificates (RFC 2986): making one, and checking one as Kubernetes' signers do
(https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtensionOID, NameOID

from supervisor_glue.auth.pki import Authority, client_sign, subject
from supervisor_glue.auth.user import NODE, NODES

SIGNER_HOST: Final = "kubernetes.io/kube-apiserver-client-kubelet"
SIGNER_CLIENT: Final = "kubernetes.io/kube-apiserver-client"
SIGNERS: Final = (SIGNER_HOST, SIGNER_CLIENT)
USAGES: Final = frozenset({"client auth", "digital signature", "key encipherment"})
LONGEST: Final = timedelta(days=365)
SHORTEST: Final = timedelta(minutes=10)
"""As `spec.expirationSeconds` of a CertificateSigningRequest allows."""
_KNOWN_SUBJECT: Final = {NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME}
_EC_BITS: Final = 256
_RSA_BITS: Final = 2048


class SigningError(Exception):
    """The request is refused: a sentence."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a request asks for; its signature holds."""

    user: str
    groups: tuple[str, ...]
    key: CertificatePublicKeyTypes

    @property
    def host(self) -> str:
        """Whose certificate it would be as a host's; empty: no host's."""
        return self.user.removeprefix(NODE) if self.user.startswith(NODE) and self.groups == (NODES,) else ""


def request_make(key: ec.EllipticCurvePrivateKey, user: str, groups: Iterable[str] = ()) -> bytes:
    """A request (PEM) for a user's certificate."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject(user, groups))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def request_read(pem: bytes) -> Request:
    """What is asked for. Raises SigningError: no request, a signature that is not its key's, a weak key, a subject with
    more than one name and groups, extensions."""
    try:
        request = x509.load_pem_x509_csr(pem)
        is_signed = request.is_signature_valid
        key = request.public_key()
        names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        groups = request.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
        known = {attribute.oid for attribute in request.subject} <= _KNOWN_SUBJECT
        extended = [extension.oid for extension in request.extensions]
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.DuplicateExtension):
        raise SigningError("spec.request is no certificate request in PEM") from None
    if not is_signed:
        raise SigningError("the request is not signed with its own key")
    if len(names) != 1 or not names[0].value or not known:
        raise SigningError("the subject must be one common name and organizations, and nothing else")
    if set(extended) - {ExtensionOID.KEY_USAGE, ExtensionOID.EXTENDED_KEY_USAGE}:
        raise SigningError("the request asks for extensions; a client's certificate has no alternative names")
    return Request(str(names[0].value), tuple(str(group.value) for group in groups), _checked(key))


def _checked(key: object) -> CertificatePublicKeyTypes:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size >= _EC_BITS:
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _RSA_BITS:
        return key
    raise SigningError(f"the key must be Ed25519, EC of {_EC_BITS} bits or RSA of {_RSA_BITS} bits at least")


def usages_check(usages: Iterable[str]) -> None:
    """Those of a client and no others. Raises SigningError."""
    given = set(usages)
    if "client auth" not in given or not given <= USAGES:
        raise SigningError(f"usages must be of {', '.join(sorted(USAGES))}, with client auth")


def request_sign(
    authority: Authority,
    request: Request,
    *,
    now: datetime,
    seconds: int | None = None,
    uid: str = "",
    longest: timedelta = LONGEST,
) -> bytes:
    """The certificate (PEM), valid as long as asked for within what is allowed, and no longer than `longest`; with the
    user's uid where there is one."""
    life = longest if seconds is None else min(longest, max(SHORTEST, timedelta(seconds=seconds)))
    return client_sign(authority, request.key, request.user, request.groups, now=now, life=life, uid=uid)
