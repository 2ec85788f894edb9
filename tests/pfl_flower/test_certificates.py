"""Certificates of one's own: for the hosts that were named, signed, and kept secret."""

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from pfl_flower.certificates import (
    CertificateError,
    check_secret,
    make_authority,
    make_node_key,
    make_server,
)
from pfl_flower.certificates.__main__ import main


def verify(folder, host, authority):
    trusted = x509.load_pem_x509_certificate(authority.read_bytes())
    own = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    policy = PolicyBuilder().store(Store([trusted])).time(datetime.now(UTC))
    return policy.build_server_verifier(x509.DNSName(host)).verify(own, [])


def test_the_server_is_who_the_authority_says(tmp_path):
    authority, _ = make_authority(tmp_path / "ours")
    make_server(tmp_path / "ours", ["fleet.example", "10.0.0.7"])
    assert len(verify(tmp_path / "ours", "fleet.example", authority)) == 2
    with pytest.raises(VerificationError):
        verify(tmp_path / "ours", "other.example", authority)
    strange, _ = make_authority(tmp_path / "strange")
    with pytest.raises(VerificationError):
        verify(tmp_path / "ours", "fleet.example", strange)
    certificate = x509.load_pem_x509_certificate((tmp_path / "ours/server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7"]
    key = load_pem_private_key((tmp_path / "ours/server.key").read_bytes(), None)
    assert key.public_key() == certificate.public_key()


def test_a_nodes_two_keys_belong_together(tmp_path):
    private, public = make_node_key(tmp_path, "bedroom")
    own = load_ssh_private_key(private.read_bytes(), None)
    assert load_ssh_public_key(public.read_bytes()) == own.public_key()
    assert own.curve.name == "secp384r1"


def test_what_is_secret_is_its_owners_alone(tmp_path, capsys):
    main([str(tmp_path / "made"), "--nodes", "2"])
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "made").iterdir()}
    secrets = {"ca.key", "server.key", "node-0", "node-1"}
    reported = {"ca.crt", "server.pem", "node-0.pub", "node-1.pub"}
    assert modes == dict.fromkeys(secrets, 0o600) | dict.fromkeys(reported, 0o644)
    assert "600  " in capsys.readouterr().out
    for name in secrets:
        check_secret(tmp_path / "made" / name)
    (tmp_path / "made/ca.key").chmod(0o640)
    with pytest.raises(CertificateError, match=r"others may read .*ca.key \(mode 640\): chmod 600"):
        check_secret(tmp_path / "made/ca.key")
    (tmp_path / "made/server.pem").unlink()
    (tmp_path / "made/server.key").unlink()
    with pytest.raises(CertificateError, match="others may read"):
        make_server(tmp_path / "made", ["localhost"])


def test_nothing_is_overwritten_and_nothing_signed_by_nobody(tmp_path):
    with pytest.raises(CertificateError, match=r"ca.key is missing"):
        make_server(tmp_path, ["localhost"])
    make_authority(tmp_path)
    with pytest.raises(CertificateError, match="name another folder"):
        make_authority(tmp_path)
    with pytest.raises(CertificateError, match="at least one host"):
        make_server(tmp_path, [])
    make_node_key(tmp_path, "node")
    with pytest.raises(CertificateError, match="node.pub"):
        make_node_key(tmp_path, "node")


@pytest.mark.parametrize(
    "host",
    [
        "",
        "fleet.example:8000",
        "b\u00fccher.example",
        "a b",
        "https://a",
        "10.0.0.700",
        "fe80::1%eth0",
        "1.2.3",
        "-x",
        "x-",
        "a..b",
        "w" * 64,
        ".".join(["ward"] * 60),
    ],
)
def test_a_host_that_is_none_leaves_nothing_behind(tmp_path, host):
    with pytest.raises(CertificateError, match="neither a host's name nor an address"):
        main([str(tmp_path / "made"), "--host", "fleet.example", f"--host={host}"])
    assert not (tmp_path / "made").exists()


def test_a_second_call_adds_devices_and_renews_what_was_moved_away(tmp_path, capsys):
    folder = tmp_path / "made"
    main([str(folder), "--nodes", "1"])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("server.pem", "server.key"):
        (folder / name).rename(tmp_path / name)
    capsys.readouterr()
    main([str(folder), "--host", "fleet.example", "--nodes", "2"])
    said = capsys.readouterr().out
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() == before.keys() | {"node-1", "node-1.pub"}
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"server.pem", "server.key"}
    for name in after:
        fresh = name in changed or name.startswith("node-1")
        assert (f"{folder / name}  (was there)" in said) != fresh
    for host in ("fleet.example", "localhost"):
        assert verify(folder, host, folder / "ca.crt")
    (folder / "node-0").unlink()  # half of a pair is no device's any more
    with pytest.raises(CertificateError, match=r"node-0.pub is there already; move it away"):
        main([str(folder), "--nodes", "1"])


def certificate_in(folder, name):
    return x509.load_pem_x509_certificate((folder / name).read_bytes())


def test_the_authority_lasts_over_many_certificates_of_the_server(tmp_path):
    main([str(tmp_path), "--days", "30", "--host", "localhost"])
    ends = [certificate_in(tmp_path, name).not_valid_after_utc for name in ("ca.crt", "server.pem")]
    days = [round((end - datetime.now(UTC)).total_seconds() / 86400) for end in ends]
    assert days == [3650, 30]
    names = certificate_in(tmp_path, "server.pem").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert [str(name.value) for name in names.value] == ["localhost", "127.0.0.1"]
    for name in ("server.pem", "server.key"):
        (tmp_path / name).unlink()
    with pytest.raises(CertificateError, match="valid until .* so not 4000 days more"):
        main([str(tmp_path), "--days", "4000"])
    main([str(tmp_path), "--days", "3650"])
    ends = [certificate_in(tmp_path, name).not_valid_after_utc for name in ("ca.crt", "server.pem")]
    assert ends[1] <= ends[0]


def test_devices_are_added_where_the_authoritys_key_is_away(tmp_path, capsys):
    folder = tmp_path / "made"
    main([str(folder)])
    (folder / "ca.key").rename(tmp_path / "ca.key")
    main([str(folder), "--nodes", "1"])
    assert (folder / "node-0.pub").exists()
    assert not (folder / "ca.key").exists()
    (folder / "server.pem").unlink()
    (folder / "server.key").unlink()
    with pytest.raises(CertificateError, match=r"ca.key is missing"):
        main([str(folder)])


def test_no_authority_is_made_beside_the_server_of_another_one(tmp_path):
    main([str(tmp_path)])
    for name in ("ca.crt", "ca.key"):
        (tmp_path / name).unlink()
    with pytest.raises(CertificateError, match=r"ca.crt cannot be read"):
        main([str(tmp_path), "--nodes", "1"])
    make_authority(tmp_path)
    with pytest.raises(CertificateError, match=r"server.pem was not signed by .*ca.crt; move it"):
        main([str(tmp_path), "--nodes", "1"])
    assert not (tmp_path / "node-0").exists()


def test_a_host_that_the_server_has_not_is_said(tmp_path, capsys):
    hosts = ["--host", "Fleet.example", "--host", "*.ward.example", "--host", "::1"]
    main([str(tmp_path), *hosts])
    main([str(tmp_path), *hosts])
    main([str(tmp_path), "--host", "fleet.EXAMPLE", "--host", "one.ward.example"])
    with pytest.raises(CertificateError, match=r"is not for two.one.ward.example"):
        main([str(tmp_path), "--host", "two.one.ward.example"])
    with pytest.raises(
        CertificateError, match=r"is not for new.example, but for Fleet.example, \*"
    ):
        main([str(tmp_path), "--host", "new.example"])


def test_a_server_is_there_with_a_key_of_its_own_or_not_at_all(tmp_path):
    (tmp_path / "server.pem").touch()
    with pytest.raises(CertificateError, match=r"server.pem is there already; move it away"):
        main([str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["server.pem"]
    (tmp_path / "server.pem").unlink()
    main([str(tmp_path)])
    shutil.copy(tmp_path / "ca.key", tmp_path / "server.key")
    with pytest.raises(CertificateError, match=r"server.key is not the key of .*server.pem"):
        main([str(tmp_path)])
    shutil.copy(tmp_path / "ca.crt", tmp_path / "server.pem")  # signed by itself, for no host
    main([str(tmp_path)])
    with pytest.raises(CertificateError, match=r"is not for a.b, but for no host at all"):
        main([str(tmp_path), "--host", "a.b"])


def test_an_authority_lasts_as_long_as_its_server_at_least(tmp_path):
    main([str(tmp_path), "--days", "4000"])
    (tmp_path / "server.key").chmod(0o644)
    with pytest.raises(CertificateError, match=r"others may read .*server.key"):
        main([str(tmp_path)])


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "made").touch()
    with pytest.raises(CertificateError, match="made is a file"):
        main([str(tmp_path / "made")])


def test_names_of_hosts_may_be_long_and_addresses_of_either_kind(tmp_path):
    long = ".".join(["ward"] * 20)
    make_authority(tmp_path)
    make_server(tmp_path, [long, "*.fleet.example", "::1"])
    assert verify(tmp_path, long, tmp_path / "ca.crt")
    assert verify(tmp_path, "node.fleet.example", tmp_path / "ca.crt")
    certificate = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["::1"]


@pytest.mark.parametrize("days", [-1, 0, 36501, 10**7])
def test_days_that_make_no_certificate(tmp_path, days):
    with pytest.raises(CertificateError, match="valid for 1 to 36500 days"):
        make_authority(tmp_path / "made", days)
    assert not (tmp_path / "made").exists()


def test_certificates_are_valid_from_now_for_so_many_days(tmp_path):
    for path, _ in (make_authority(tmp_path, 7), make_server(tmp_path, ["localhost"], 7)):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        now = datetime.now(UTC)
        assert certificate.not_valid_before_utc < now - timedelta(minutes=4)  # clocks differ
        assert 6.99 < (certificate.not_valid_after_utc - now).total_seconds() / 86400 <= 7


def test_only_the_authority_signs_and_the_server_only_serves(tmp_path):
    make_authority(tmp_path)
    make_server(tmp_path, ["localhost"])
    signs, serves = (
        x509.load_pem_x509_certificate((tmp_path / name).read_bytes()).extensions
        for name in ("ca.crt", "server.pem")
    )
    authority = signs.get_extension_for_class(x509.KeyUsage).value
    assert (authority.key_cert_sign, authority.digital_signature) == (True, False)
    server = serves.get_extension_for_class(x509.KeyUsage).value
    assert (server.key_cert_sign, server.digital_signature) == (False, True)
    purposes = serves.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.SERVER_AUTH]
    signer = serves.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert (
        signer.key_identifier
        == signs.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    )
    limits = [e.get_extension_for_class(x509.BasicConstraints).value for e in (signs, serves)]
    assert [(limit.ca, limit.path_length) for limit in limits] == [(True, 0), (False, None)]


@pytest.mark.parametrize("name", ["", ".", "..", "../node", "a/b", "n\u00f6de", "-\n"])
def test_a_key_has_a_name_of_a_file(tmp_path, name):
    with pytest.raises(CertificateError, match="is no file name"):
        make_node_key(tmp_path / "keys", name)
    assert not list(tmp_path.iterdir())


def test_an_authority_that_cannot_be_used_is_said_to_be(tmp_path):
    make_authority(tmp_path / "other")
    make_authority(tmp_path)
    shutil.copy(tmp_path / "other" / "ca.crt", tmp_path / "ca.crt")
    with pytest.raises(CertificateError, match=r"ca.key is not the key of .*ca.crt"):
        make_server(tmp_path, ["localhost"])
    (tmp_path / "ca.key").write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    with pytest.raises(CertificateError, match=r"ca.key holds no elliptic curve key"):
        make_server(tmp_path, ["localhost"])
    (tmp_path / "ca.crt").write_text("torn")
    with pytest.raises(CertificateError, match="cannot be read"):
        make_server(tmp_path, ["localhost"])
    (tmp_path / "ca.crt").unlink()
    with pytest.raises(CertificateError, match="cannot be read"):
        make_server(tmp_path, ["localhost"])
    assert not (tmp_path / "server.key").exists()


def test_a_key_is_secret_before_it_has_its_name(tmp_path, monkeypatch):
    modes = {}
    replace = os.replace

    def watched(source, target):
        modes[Path(target).name] = Path(source).stat().st_mode & 0o777
        replace(source, target)

    monkeypatch.setattr("pfl_flower.utils.files.os.replace", watched)
    before = os.umask(0)
    try:
        make_node_key(tmp_path, "node")
    finally:
        os.umask(before)
    assert modes == {"node": 0o600, "node.pub": 0o644}
