"""A certificate authority, a server certificate and SuperNode keys of one's own.

For trying out, for tests and for a federation whose machines are all one's own: no authority that
others trust has signed anything. ``python -m pfl_flower.certificates certificates --nodes 3``.
"""

import argparse
import ipaddress
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pfl_flower.utils.files import write_bytes

CURVE = ec.SECP384R1
"""What Flower asks of the keys of SuperNodes; the certificates use it, too."""

AUTHORITY, AUTHORITY_KEY = "ca.crt", "ca.key"
SERVER, SERVER_KEY = "server.pem", "server.key"

AUTHORITY_DAYS, SERVER_DAYS, MOST_DAYS = 3650, 365, 36500
"""How long they are valid: devices keep the authority over many certificates of the server."""

SECRET, PUBLIC = 0o600, 0o644
"""Permissions: of private keys only the owner's, of what is given away everybody's to read."""


_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = rf"(?=.{{1,253}}$)(?!.*(^|\.)[0-9]+$)(\*\.)?({_LABEL}\.)*{_LABEL}"
"""Of numbers alone it would be an address, and is none."""


class CertificateError(ValueError):
    """Certificates that cannot be made as asked."""


def make_authority(folder: Path, days: int = AUTHORITY_DAYS) -> tuple[Path, Path]:
    """Make a certificate authority: ``ca.crt`` for everybody, ``ca.key`` for nobody else.

    Parameters
    ----------
    folder : where; made if it is not there
    days : how long it is valid

    Returns
    -------
    certificate, key

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
    folder : where :func:`make_authority` made one
    hosts : names and numeric addresses by which SuperNodes and ``flwr run`` reach it, at least one
    days : how long it is valid

    Returns
    -------
    certificate, key

    Raises
    ------
    CertificateError
        If there is no host, or one is no name or address; there is no authority, or it ends
        before; or a server's certificate is there.
    """
    names = _hosts(hosts)
    authority, authority_key = _read_authority(folder)
    end = authority.not_valid_after_utc
    if _end(days) - end > timedelta(days=1):
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
    """Make the key by which a SuperNode is known: ``<name>`` stays there, ``<name>.pub`` is told.

    Returns
    -------
    private key (OpenSSH's format), public key

    Raises
    ------
    CertificateError
        If a key of that name is there, or the name is no file's.
    """
    if not re.fullmatch(r"[\w-][\w.-]*", name, re.ASCII):
        raise CertificateError(f"{name!r} is no file name: use letters, digits, '.', '_', '-'")
    key = ec.generate_private_key(CURVE())
    private, public = folder / name, folder / f"{name}.pub"
    _refuse_present(private, public)
    folder.mkdir(parents=True, exist_ok=True)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    told = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    write_bytes(private, secret, SECRET)
    write_bytes(public, told + b"\n", PUBLIC)
    return private, public


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


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _hosts(hosts: Sequence[str]) -> list[x509.GeneralName]:
    if not hosts:
        raise CertificateError("a server needs at least one host that it is reached by")
    return [_host(host) for host in hosts]


def _host(host: str) -> x509.GeneralName:
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


def _end(days: int) -> datetime:
    if not 1 <= days <= MOST_DAYS:
        raise CertificateError(f"certificates are valid for 1 to {MOST_DAYS} days, not {days}")
    return datetime.now(UTC) + timedelta(days=days)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: int,
    latest: datetime | None = None,
) -> x509.CertificateBuilder:
    end = _end(days)
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


def _read_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    return _read_pair(folder / AUTHORITY, folder / AUTHORITY_KEY)


def _read_pair(certificate: Path, key: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    check_secret(key)
    told = _read(certificate)
    try:
        read = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"{key} cannot be read: {error}") from error
    if not isinstance(read, ec.EllipticCurvePrivateKey):
        raise CertificateError(f"{key} holds no elliptic curve key")
    if told.public_key() != read.public_key():
        raise CertificateError(f"{key} is not the key of {certificate}")
    return told, read


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(f"the certificate {path} cannot be read: {error}") from error


def _write_pair(
    folder: Path,
    name: str,
    key_name: str,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
) -> tuple[Path, Path]:
    told, secret = folder / name, folder / key_name
    _refuse_present(told, secret)
    folder.mkdir(parents=True, exist_ok=True)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_bytes(secret, private, SECRET)
    write_bytes(told, certificate.public_bytes(serialization.Encoding.PEM), PUBLIC)
    return told, secret


def _refuse_present(*paths: Path) -> None:
    if there := [str(path) for path in paths if path.exists()]:
        raise CertificateError(
            f"{', '.join(there)} is there already; move it away, or name another folder"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Make an authority, a server's certificate and the keys of SuperNodes in a folder.

    What is there already is left as it is, so that a second call adds devices, or makes a new
    server's certificate once the old one was moved away. An authority is made for its server
    only: beside a server's certificate of another authority it would be worth nothing.

    Raises
    ------
    CertificateError
        If something is there in part, or is not what is asked for.
    """
    parser = argparse.ArgumentParser(prog="python -m pfl_flower.certificates", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to put them, beside what is there already")
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        help="a name or address of the server, once for each, beside localhost and 127.0.0.1",
    )
    parser.add_argument("--nodes", type=int, default=0, help="number of SuperNodes to have keys of")
    parser.add_argument(
        "--days",
        type=int,
        default=SERVER_DAYS,
        help=f"how long the server's certificate is valid; {SERVER_DAYS}. The authority is for "
        f"{AUTHORITY_DAYS}",
    )
    options = parser.parse_args(arguments)
    folder = options.folder
    if folder.exists() and not folder.is_dir():
        raise CertificateError(f"{folder} is a file; name a folder")
    # A SuperLink starts programs that connect to it from the same machine.
    hosts = list(dict.fromkeys([*options.host, "localhost", "127.0.0.1"]))
    _hosts(hosts)  # before an authority is made
    if _all_there(folder, SERVER, SERVER_KEY):
        _check_server(folder, options.host)
        _tell(folder, AUTHORITY, SERVER, SERVER_KEY, was_there=True)
    else:
        _refuse_present(folder / SERVER, folder / SERVER_KEY)
        _end(options.days)
        if there := any((folder / name).exists() for name in (AUTHORITY, AUTHORITY_KEY)):
            _read_authority(folder)
        else:
            make_authority(folder, max(AUTHORITY_DAYS, options.days))
        _tell(folder, AUTHORITY, AUTHORITY_KEY, was_there=there)
        make_server(folder, hosts, options.days)
        _tell(folder, SERVER, SERVER_KEY, was_there=False)
    for name in (f"node-{number}" for number in range(options.nodes)):
        if not (there := _all_there(folder, name, f"{name}.pub")):
            make_node_key(folder, name)
        _tell(folder, name, f"{name}.pub", was_there=there)


def _all_there(folder: Path, *names: str) -> bool:
    return all((folder / name).exists() for name in names)


def _tell(folder: Path, *names: str, was_there: bool) -> None:
    for path in (folder / name for name in names):
        was = "  (was there)" if was_there else ""
        print(f"{path.stat().st_mode & 0o777:o}  {path}{was}")


def _check_server(folder: Path, hosts: Sequence[str]) -> None:
    """Raise unless the server's certificate is the authority's, and for all of these hosts."""
    server, _ = _read_pair(folder / SERVER, folder / SERVER_KEY)
    authority = _read(folder / AUTHORITY)
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
    wanted = _host(host)
    if not isinstance(wanted, x509.DNSName):
        return wanted in found
    names = {name.lower() for name in found.get_values_for_type(x509.DNSName)}
    name = wanted.value.lower()
    return name in names or f"*.{name.partition('.')[2]}" in names


if __name__ == "__main__":
    try:
        main()
    except (CertificateError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
