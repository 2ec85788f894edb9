"""What makes an authority, a server's certificate and the keys of SuperNodes."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pfl_flower.certificates.checks import (
    AUTHORITY,
    AUTHORITY_KEY,
    SERVER,
    SERVER_KEY,
    CertificateError,
    end_of,
    named_hosts,
    read_authority,
    refuse_present,
)
from pfl_flower.utils.files import write_bytes

CURVE = ec.SECP384R1
"""What Flower asks of the keys of SuperNodes; the certificates use it, too."""

AUTHORITY_DAYS, SERVER_DAYS = 3650, 365
"""How long each is valid: devices keep the authority over many certificates of the server."""

SECRET, PUBLIC = 0o600, 0o644
"""Permissions: of private keys only the owner's, of what is given away everybody's to read."""


def make_authority(folder: Path, days: int = AUTHORITY_DAYS) -> tuple[Path, Path]:
    """Make a certificate authority: ``ca.crt`` for everybody, ``ca.key`` for nobody else.

    Parameters
    ----------
    folder : Path
        Where; made if it is not there.
    days : int, default AUTHORITY_DAYS
        How long it is valid.

    Returns
    -------
    tuple of Path and Path
        Certificate, key.

    Raises
    ------
    CertificateError
        If one is there: what it has signed would be worth nothing under another.
    """
    key = ec.generate_private_key(CURVE())
    name = _name("pfl-flower certificate authority")
    builder = _builder(name, name, key.public_key(), days).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    usage = _usage(key_cert_sign=True, crl_sign=True)
    certificate = builder.add_extension(usage, critical=True).sign(key, hashes.SHA384())
    return _write_pair(folder, AUTHORITY, AUTHORITY_KEY, certificate, key)


def make_server(folder: Path, hosts: Sequence[str], days: int = SERVER_DAYS) -> tuple[Path, Path]:
    """Make the certificate of a SuperLink, signed by the authority in the folder.

    Parameters
    ----------
    folder : Path
        Where :func:`make_authority` made one.
    hosts : sequence of str
        Names and numeric addresses by which SuperNodes and ``flwr run`` reach it, at least one.
    days : int, default SERVER_DAYS
        How long it is valid.

    Returns
    -------
    tuple of Path and Path
        Certificate, key.

    Raises
    ------
    CertificateError
        If there is no host, or one is no name or address; there is no authority, or it ends
        before; or a server's certificate is there.
    """
    names = named_hosts(hosts)
    authority, authority_key = read_authority(folder)
    end = authority.not_valid_after_utc
    if end_of(days) - end > timedelta(days=1):
        raise CertificateError(
            f"the authority in {folder} is valid until {end:%Y-%m-%d}, so not {days} days more; "
            f"ask for fewer, or make another authority"
        )
    key = ec.generate_private_key(CURVE())
    builder = _builder(_name("pfl-flower server"), authority.subject, key.public_key(), days, end)
    builder = (
        builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True, key_agreement=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
    )
    certificate = builder.sign(authority_key, hashes.SHA384())
    return _write_pair(folder, SERVER, SERVER_KEY, certificate, key)


def make_node_key(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a SuperNode's key: the device has ``<name>``, the server knows it by ``<name>.pub``.

    Returns
    -------
    tuple of Path and Path
        Private key (OpenSSH's format), public key.

    Raises
    ------
    CertificateError
        If a key of that name is there, or the name is no file's.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", name, re.ASCII):
        raise CertificateError(f"{name!r} is no file name: use letters, digits, '.', '_', '-'")
    key = ec.generate_private_key(CURVE())
    private, public = folder / name, folder / f"{name}.pub"
    refuse_present(private, public)
    folder.mkdir(parents=True, exist_ok=True)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public_bytes = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    write_bytes(private, secret, SECRET)
    write_bytes(public, public_bytes + b"\n", PUBLIC)
    return private, public


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: int,
    latest: datetime | None = None,
) -> x509.CertificateBuilder:
    end = end_of(days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(minutes=5))  # clocks differ a little
        .not_valid_after(end if latest is None else min(end, latest))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(**allowed: bool) -> x509.KeyUsage:
    kinds = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{kind: allowed.get(kind, False) for kind in kinds})


def _write_pair(
    folder: Path,
    name: str,
    key_name: str,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
) -> tuple[Path, Path]:
    public, secret = folder / name, folder / key_name
    refuse_present(public, secret)
    folder.mkdir(parents=True, exist_ok=True)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_bytes(secret, private, SECRET)
    write_bytes(public, certificate.public_bytes(serialization.Encoding.PEM), PUBLIC)
    return public, secret
