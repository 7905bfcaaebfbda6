"""The cluster's own certificate authority, and what is signed by it. Elliptic-curve keys: made in a millisecond each."""

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_VALID: Final = dt.timedelta(days=365)
_BACKDATED: Final = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Pair:
    """Files of a certificate and its key, PEM."""

    certificate: Path
    key: Path


class Authority:
    """Signs what the control plane's parts show each other."""

    def __init__(self, folder: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._folder, self._key, self._certificate = folder, key, certificate
        self.file = folder / "ca.crt"
        """The authority's certificate, PEM."""

    @classmethod
    def create(cls, folder: Path) -> Self:
        """Make a new authority in a folder that only this user can read."""
        folder.mkdir(mode=0o700, parents=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("dynamollm-local")
        builder = (
            _builder(subject=name, issuer=name, key=key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
        )
        authority = cls(folder, key, builder.sign(key, hashes.SHA256()))
        authority.file.write_bytes(_pem(authority._certificate))
        return authority

    def server(self, name: str, *addresses: str) -> Pair:
        """Issue a certificate for servers that listen on the addresses, good as a client's too (etcd's peers are both)."""
        names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        names += [
            x509.DNSName(one) for one in ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
        ]
        return self._issue(name, _name(name), [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH], names)

    def client(self, name: str, *, user: str, group: str | None = None) -> Pair:
        """Issue a certificate that the API server takes for ``user`` in ``group``."""
        return self._issue(name, _name(user, group), [ExtendedKeyUsageOID.CLIENT_AUTH], [])

    def _issue(
        self, file: str, subject: x509.Name, usages: list[x509.ObjectIdentifier], names: list[x509.GeneralName]
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(subject=subject, issuer=self._certificate.subject, key=key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        pair = Pair(self._folder / f"{file}.crt", self._folder / f"{file}.key")
        pair.certificate.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))
        _write_key(pair.key, key)
        return pair

    def signing_key(self, name: str) -> Path:
        """Make a bare key, for the tokens of service accounts."""
        file = self._folder / f"{name}.key"
        _write_key(file, ec.generate_private_key(ec.SECP256R1()))
        return file


def _builder(*, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _VALID)
        # Python ≥ 3.13 verifies strictly, and asks for both identifiers.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common: str, organization: str | None = None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if organization:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(parts)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_key(file: Path, key: ec.EllipticCurvePrivateKey) -> None:
    # SEC 1 ("EC PRIVATE KEY"): the one form that every part reads as a signing key of service accounts too.
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    file.touch(mode=0o600)
    file.write_bytes(text)
