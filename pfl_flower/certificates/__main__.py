"""The command that makes certificates: ``python -m pfl_flower.certificates folder --nodes 3``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pfl_flower.certificates.checks import (
    AUTHORITY,
    AUTHORITY_KEY,
    SERVER,
    SERVER_KEY,
    CertificateError,
    check_server,
    end_of,
    named_hosts,
    read_authority,
    refuse_present,
)
from pfl_flower.certificates.making import (
    AUTHORITY_DAYS,
    SERVER_DAYS,
    make_authority,
    make_node_key,
    make_server,
)

ABOUT = "Make a certificate authority, a server's certificate and the keys of SuperNodes."


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
    parser = argparse.ArgumentParser(prog="python -m pfl_flower.certificates", description=ABOUT)
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
    named_hosts(hosts)  # before an authority is made
    if _all_there(folder, SERVER, SERVER_KEY):
        check_server(folder, options.host)
        _print_files(folder, AUTHORITY, SERVER, SERVER_KEY, was_there=True)
    else:
        refuse_present(folder / SERVER, folder / SERVER_KEY)
        end_of(options.days)
        if there := any((folder / name).exists() for name in (AUTHORITY, AUTHORITY_KEY)):
            read_authority(folder)
        else:
            make_authority(folder, max(AUTHORITY_DAYS, options.days))
        _print_files(folder, AUTHORITY, AUTHORITY_KEY, was_there=there)
        make_server(folder, hosts, options.days)
        _print_files(folder, SERVER, SERVER_KEY, was_there=False)
    for name in (f"node-{number}" for number in range(options.nodes)):
        if not (there := _all_there(folder, name, f"{name}.pub")):
            make_node_key(folder, name)
        _print_files(folder, name, f"{name}.pub", was_there=there)


def _all_there(folder: Path, *names: str) -> bool:
    return all((folder / name).exists() for name in names)


def _print_files(folder: Path, *names: str, was_there: bool) -> None:
    for path in (folder / name for name in names):
        was = "  (was there)" if was_there else ""
        print(f"{path.stat().st_mode & 0o777:o}  {path}{was}")


if __name__ == "__main__":
    try:
        main()
    except (CertificateError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
