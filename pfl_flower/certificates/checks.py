"""What certificates and keys must be: which hosts and days are possible, and what a file holds."""

import ipaddress
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

AUTHORITY, AUTHORITY_KEY = "ca.crt", "ca.key"
SERVER, SERVER_KEY = "server.pem", "server.key"

MOST_DAYS = 36500
"""The longest time that a certificate may be valid."""

_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = rf"(?=.{{1,253}}$)(?!.*(^|\.)[0-9]+$)(\*\.)?({_LABEL}\.)*{_LABEL}"
"""Of numbers alone it would be an address, and is none."""


class CertificateError(ValueError):
    """Certificates that cannot be made as asked."""


def check_secret(path: Path) -> None:
    """Raise unless a private key is its owner's alone.

    Raises
    ------
    CertificateError
        If it is missing, or others may read it.
    """
    if not path.is_file():
        raise CertificateError(f"{path} is missing")
    mode = path.stat().st_mode & 0o777
    if os.name == "posix" and mode & 0o077:
        raise CertificateError(f"others may read {path} (mode {mode:o}): chmod 600 {path}")


def named_hosts(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Return the names of hosts; raise if there is none, or one is no name or address."""
    if not hosts:
        raise CertificateError("a server needs at least one host that it is reached by")
    return [named_host(host) for host in hosts]


def named_host(host: str) -> x509.GeneralName:
    """Return the name of a host; raise if it is neither a name nor an address."""
    try:
        address = ipaddress.ip_address(host)
        if "%" in host:  # a zone is a matter of one machine
            raise ValueError(host)
        return x509.IPAddress(address)
    except ValueError:
        if not re.fullmatch(_DNS_NAME, host):
            raise CertificateError(
                f"{host!r} is neither a host's name nor an address; write it without a port, such "
                f"as 'fleet.example' or '10.0.0.7'"
            ) from None
        return x509.DNSName(host)


def end_of(days: int) -> datetime:
    """Return when a certificate of today ends; raise if it cannot be valid for so many days."""
    if not 1 <= days <= MOST_DAYS:
        raise CertificateError(f"certificates are valid for 1 to {MOST_DAYS} days, not {days}")
    return datetime.now(UTC) + timedelta(days=days)


def read_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return the authority in a folder and its key; raise if they cannot be used."""
    return read_pair(folder / AUTHORITY, folder / AUTHORITY_KEY)


def read_pair(certificate: Path, key: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return a certificate and its key; raise unless they can be read and belong together."""
    check_secret(key)
    found = read_certificate(certificate)
    try:
        read = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{key} cannot be read: {error}") from error
    if not isinstance(read, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{key} holds no elliptic curve key")
    if found.public_key() != read.public_key():
        raise CertificateError(f"{key} is not the key of {certificate}")
    return found, read


def read_certificate(path: Path) -> x509.Certificate:
    """Return the certificate in a file; raise if it cannot be read."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(f"the certificate {path} cannot be read: {error}") from error


def refuse_present(*paths: Path) -> None:
    """Raise if a file is there already."""
    if there := [str(path) for path in paths if path.exists()]:
        raise CertificateError(
            f"{', '.join(there)} is there already; move it away, or name another folder"
        )


def check_server(folder: Path, hosts: Sequence[str]) -> None:
    """Raise unless the server's certificate is the authority's, and for all of these hosts."""
    server, _ = read_pair(folder / SERVER, folder / SERVER_KEY)
    authority = read_certificate(folder / AUTHORITY)
    way_out = f"; move it and {SERVER_KEY} away to have a new one"
    try:
        server.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CertificateError(
            f"{folder / SERVER} was not signed by {folder / AUTHORITY}{way_out}"
        ) from error
    try:
        found = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        found = x509.SubjectAlternativeName([])
    if missing := [host for host in hosts if not _is_for(found, host)]:
        names = ", ".join(str(name.value) for name in found) or "no host at all"
        raise CertificateError(
            f"{folder / SERVER} is not for {missing[0]}, but for {names}{way_out}"
        )


def _is_for(found: x509.SubjectAlternativeName, host: str) -> bool:
    wanted = named_host(host)
    if not isinstance(wanted, x509.DNSName):
        return wanted in found
    names = {name.lower() for name in found.get_values_for_type(x509.DNSName)}
    name = wanted.value.lower()
    return name in names or f"*.{name.partition('.')[2]}" in names
