"""IP addresses of the public internet, and those of this machine and of private networks.

An address that a server names may lead to a service that only this machine reaches: the metadata of a cloud, a router,
a database without a password. So the addresses of a host are looked up here, each is judged, and the connection goes to
the one that was judged: a second answer of DNS cannot lead elsewhere.
"""

import ipaddress
import socket
import threading
from typing import Any

_V4, _V6 = ipaddress.IPv4Network, ipaddress.IPv6Network

# Networks whose hosts reach each other: if the user names an address of one, the answers from there may lead to others.
_KINDS: dict[str, tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]] = {
    "this machine": (_V4("127.0.0.0/8"), _V6("::1/128")),
    "a private network": (
        *map(_V4, ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16")),
        _V6("fc00::/7"),
    ),
}
# Further IPv4 networks that are not of the public internet: IANA's registry of special addresses, and Azure's own
# server.
_OTHERS = tuple(
    map(
        _V4,
        ("0.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24",
         "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)  # fmt: skip
# Of IPv6 only these are public, without those below.
_PUBLIC_6 = _V6("2000::/3")
_OTHERS_6 = tuple(map(_V6, ("2001::/23", "2001:db8::/32", "3fff::/20")))
# IPv6 networks whose addresses lead to the IPv4 address in their last 32 bits: mapped, and NAT64.
_WITH_IPV4 = tuple(map(_V6, ("::ffff:0:0/96", "64:ff9b::/96")))


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet; also of an IPv4 address inside an IPv6 one."""
    return kind_of(address) is None


def kind_of(address: str) -> str | None:
    """What an IP address is of, if it is not of the public internet: words that a message ends with. None if it is."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if any(ip in network for network in _WITH_IPV4):
            return kind_of(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip.sixtofour is not None:
            return kind_of(str(ip.sixtofour))
    for kind, networks in _KINDS.items():
        if any(ip in network for network in networks):
            return kind
    if isinstance(ip, ipaddress.IPv4Address):
        is_other = any(ip in network for network in _OTHERS)
    else:
        is_other = ip not in _PUBLIC_6 or any(ip in network for network in _OTHERS_6)
    return f"a network for special use ({ip})" if is_other else None


def addresses_of(host: str, port: int, timeout_s: float | None) -> list[str]:
    """The IP addresses of a host, in the order in which they are to be tried.

    Raises:
        OSError, UnicodeError: the name has no address.
        TimeoutError: no name server has answered within `timeout_s`.
    """
    found: list[Any] = []
    failed: list[Exception] = []

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            failed.append(error)

    # In a thread, because nothing else ends a look-up early.
    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise TimeoutError(f"no name server has answered for {host}")
    if failed:
        raise failed[0]
    return list(dict.fromkeys(str(one[4][0]).partition("%")[0] for one in found))
