"""A certificate authority, a server certificate and SuperNode keys of one's own.

For trying out, for tests and for a federation whose machines are all one's own: no authority that
others trust has signed anything. ``python -m pfl_flower.certificates certificates --nodes 3``.
"""

from pfl_flower.certificates.checks import (
    AUTHORITY,
    AUTHORITY_KEY,
    SERVER,
    SERVER_KEY,
    CertificateError,
    check_secret,
)
from pfl_flower.certificates.making import make_authority, make_node_key, make_server

__all__ = [
    "AUTHORITY",
    "AUTHORITY_KEY",
    "SERVER",
    "SERVER_KEY",
    "CertificateError",
    "check_secret",
    "make_authority",
    "make_node_key",
    "make_server",
]
