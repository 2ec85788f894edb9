"""Certificates of one's own: for the hosts that were named, signed, and kept secret."""

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from pfl_flower.certificates import (
    CertificateError,
    check_secret,
    main,
    make_authority,
    make_node_key,
    make_server,
)


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
    told = {"ca.crt", "server.pem", "node-0.pub", "node-1.pub"}
    assert modes == dict.fromkeys(secrets, 0o600) | dict.fromkeys(told, 0o644)
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
