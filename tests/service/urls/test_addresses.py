from ipaddress import ip_address

import pytest

from service.urls.addresses import is_public

PUBLIC = [
    "8.8.8.8",
    "93.184.216.34",
    "168.63.129.17",
    "192.0.1.1",
    "2606:4700::1111",
    "2a00:1450:4001::1",
    "64:ff9b::8.8.8.8",
]

OTHERS = {
    "this host": ["0.0.0.0", "127.0.0.1", "127.255.255.254", "::", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd00:ec2::254", "fec0::1"],
    "link": ["169.254.169.254", "fe80::1", "fe80::1%eth0"],
    "carrier": ["100.64.0.1", "100.100.100.200"],
    "metadata and host services of clouds": ["192.0.0.192", "168.63.129.16"],
    "multicast and broadcast": ["224.0.0.1", "239.255.255.255", "255.255.255.255", "240.0.0.1", "ff02::1", "ff0e::1"],
    "documentation and benchmarks": [
        "192.0.2.1",
        "198.51.100.1",
        "203.0.113.1",
        "198.18.0.1",
        "2001:db8::1",
        "3fff::1",
    ],
    "IPv4-mapped": ["::ffff:10.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:8.8.8.8"],
    "IPv4-compatible": ["::10.0.0.1", "::8.8.8.8"],
    "IPv4-translated": ["::ffff:0:10.0.0.1"],
    "NAT64": ["64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::8.8.8.8", "64:ff9b:1::a00:1"],
    "6to4": ["2002:a00:1::", "2002:7f00:1::1", "2002:808:808::1", "192.88.99.1"],
    "Teredo": ["2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"],
    "not given out": ["4000::1", "1000::1", "5f00::1", "100::1"],
}


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_a_server_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", [address for addresses in OTHERS.values() for address in addresses])
def test_every_other_address_is_not(address: str) -> None:
    assert not is_public(ip_address(address))


def test_a_public_address_of_one_interface_is_not() -> None:
    assert not is_public(ip_address("2606:4700::1111%eth0"))
