"""The one parser of URLs that documents are fetched from. The host that is checked is the host that is connected to.

It takes fewer forms than browsers do. Those that parsers are known to read differently are refused: credentials, backslashes,
white space, letters outside ASCII, numbers in other than the usual notation, host names with a dot at the end.
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import urljoin

from service.errors import UnusableDocumentError
from service.urls.addresses import IpAddress

MAX_URL_CHARACTERS = 8192
DEFAULT_PORTS = {"https": 443, "http": 80}

_CHARACTERS = re.compile(r"[!-\[\]-~]*")  # printable ASCII without the backslash
_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)([/?].*)?")
_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::([1-9][0-9]{0,4}))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # as the last label: an IPv4 address for some parsers
_MAX_NAME_CHARACTERS = 253
_MAX_PORT = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class Url:
    """A URL of a document, in parts. Made by `parse_url`."""

    scheme: str  # https or http
    host: str  # a full domain name in lower case, or an IP address without brackets
    port: int
    target: str  # path and query

    @property
    def address(self) -> IpAddress | None:
        """The host, where it is an IP address."""
        if ":" in self.host:
            return IPv6Address(self.host)
        return IPv4Address(self.host) if _is_number(self.host.rpartition(".")[2]) else None

    @property
    def authority(self) -> str:
        """Host and port as in the Host header, the port where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"


def parse_url(text: str) -> Url:
    """Raises: UnusableDocumentError (url_refused)."""
    if len(text) > MAX_URL_CHARACTERS:
        raise _refused(f"{len(text)} characters, and a URL has at most {MAX_URL_CHARACTERS}. Send the document itself.")
    if not _CHARACTERS.fullmatch(text):
        raise _refused(
            "a backslash, a space or a character outside ASCII; percent-encode it, and write it in a host's name as xn--…"
        )
    if "#" in text:
        raise _refused("a fragment that selects no pages; write #page=3 or #pages=1-3,7, or leave it out.")
    parts = _PARTS.fullmatch(text)
    if parts is None or parts[1].lower() not in DEFAULT_PORTS:
        raise _refused("not an https:// URL. Send the document itself.")
    scheme, target = parts[1].lower(), parts[3] or "/"
    if "@" in parts[2]:
        raise _refused("a user name or password before the host. Leave them out, or send the document itself.")
    authority = _AUTHORITY.fullmatch(parts[2].lower())
    if authority is None:
        raise _refused("no host that can be read; write https://example.org/report.pdf.")
    port = int(authority[3] or DEFAULT_PORTS[scheme])
    if port > _MAX_PORT:
        raise _refused(f"the port {port}, and ports go up to {_MAX_PORT}.")
    host = _read_ipv6(authority[1]) if authority[1] else _read_host(authority[2])
    return Url(scheme=scheme, host=host, port=port, target=target if target.startswith("/") else f"/{target}")


def follow(url: Url, location: str) -> Url:
    """The URL to which an answer of `url` redirects. location: of the answer's header.

    Raises: UnusableDocumentError (url_refused).
    """
    if not _CHARACTERS.fullmatch(location):
        raise _refused("a redirect to a URL that cannot be read.")
    try:
        return parse_url(urljoin(f"{url.origin}{url.target}", location).partition("#")[0])
    except ValueError:  # brackets without an address between them
        raise _refused("a redirect to a URL that cannot be read.") from None


def _read_host(name: str) -> str:
    labels = name.split(".")
    if _is_number(labels[-1]):
        return _read_ipv4(name)
    if len(name) > _MAX_NAME_CHARACTERS or len(labels) < 2 or not all(map(_LABEL.fullmatch, labels)):
        raise _refused("a host that is no full domain name, such as example.org.")
    return name


def _is_number(label: str) -> bool:
    return _NUMBER.fullmatch(label) is not None


def _read_ipv4(text: str) -> str:
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        raise _refused("an IP address in an unusual form; write four decimal numbers without leading zeros.") from None


def _read_ipv6(text: str) -> str:
    try:
        return str(IPv6Address(text))
    except AddressValueError:
        raise _refused("brackets without an IPv6 address between them.") from None


def _refused(message: str) -> UnusableDocumentError:
    return UnusableDocumentError("url_refused", message, field="content")
