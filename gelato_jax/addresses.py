"""Addresses that servers listen at: checked before anything is loaded."""

import ipaddress

from gelato_jax.errors import GelatoError


def is_socket_file(address: str) -> bool:
    """Whether an address is `unix:PATH`: a file, whose permissions say who is let in."""
    return address.startswith("unix:") and len(address) > len("unix:")


def check_address(address: str, *, is_guarded: bool, guard: str) -> tuple[str, int]:
    """Refuse an address that is none, or that is open to others where nothing guards it.

    Args:
        address: `HOST:PORT`.
        is_guarded: whether others may be let in.
        guard: the options to give where they may not.

    Returns:
        Host and port.

    Raises:
        GelatoError: one line.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise GelatoError(f"address {address!r} is not HOST:PORT, as in 127.0.0.1:8470")
    if not is_guarded and not _is_loopback(host):
        raise GelatoError(f"{address} is open to other machines: give {guard}")
    return host, int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
