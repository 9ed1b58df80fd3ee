"""IP addresses to which the service may connect for a client: those of public servers, by lists that are kept here.

`ipaddress.is_global` alone does not do: it takes multicast, deprecated tunnels and addresses with an IPv4 address inside, and
its answers differ between versions of Python. The lists follow IANA's registries of special-purpose addresses
(https://www.iana.org/assignments/iana-ipv4-special-registry, …/iana-ipv6-special-registry).
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IpAddress = IPv4Address | IPv6Address

_REFUSED_IPV4 = tuple(
    map(
        IPv4Network,
        (
            "192.0.0.0/24",  # protocol assignments; a cloud's metadata service has 192.0.0.192
            "192.88.99.0/24",  # relays of 6to4
            "168.63.129.16/32",  # Azure's services of the host, on every machine there
            "224.0.0.0/4",  # multicast
        ),
    )
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_REFUSED_IPV6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, with an IPv4 address inside
            "3fff::/20",  # documentation
        ),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
"""Names that have IPv4 addresses alone are given addresses in it where a network has IPv6 alone (RFC 6147)."""


def is_public(address: IpAddress) -> bool:
    """Whether the address is one of a server on the public internet.

    An IPv6 address with an IPv4 address inside is not (IPv4-mapped, IPv4-compatible, 6to4, Teredo, local NAT64), except in the
    well-known prefix of NAT64, where the inner address decides.
    """
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in _REFUSED_IPV4)
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    return (
        address in _GLOBAL_UNICAST
        and address.is_global
        and address.scope_id is None
        and not any(address in network for network in _REFUSED_IPV6)
    )
