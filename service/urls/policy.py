"""The hosts that documents may be fetched from: the value of the setting `url_fetch`.

    off                                     none; the default
    public                                  all, by https on port 443
    example.org,*.example.net               these, by https on port 443; the asterisk stands for one or more labels
    example.org:8443,http://example.com     a port of its own; http on port 80

Whatever the hosts, only public addresses are connected to (`service.urls.addresses`).
"""

from dataclasses import dataclass

from service.errors import UnusableDocumentError
from service.urls.addresses import is_public
from service.urls.url import DEFAULT_PORTS, Url, parse_url

_SUBDOMAINS = "*."
_FORMS = "off, public, or hosts separated by commas: example.org, *.example.org, example.org:8443, http://example.org"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRule:
    """One entry of the list."""

    scheme: str  # https or http
    host: str  # in lower case; a domain name or an IP address
    port: int
    is_for_subdomains: bool  # and not for the host itself

    def allows(self, url: Url) -> bool:
        if (url.scheme, url.port) != (self.scheme, self.port):
            return False
        return url.host.endswith(f".{self.host}") if self.is_for_subdomains else url.host == self.host


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlPolicy:
    """Whether a URL may be fetched, by its scheme, host and port. As it is made, it allows nothing."""

    takes_all_hosts: bool = False  # by https on port 443
    rules: tuple[HostRule, ...] = ()

    @property
    def is_off(self) -> bool:
        return not self.takes_all_hosts and not self.rules

    def allows(self, url: Url) -> bool:
        if self.takes_all_hosts:
            return (url.scheme, url.port) == ("https", DEFAULT_PORTS["https"])
        return any(rule.allows(url) for rule in self.rules)


def parse_policy(text: str) -> UrlPolicy:
    """Raises: ValueError that names the entry at fault."""
    match text.strip():
        case "off":
            return UrlPolicy()
        case "public":
            return UrlPolicy(takes_all_hosts=True)
        case entries:
            return UrlPolicy(rules=tuple(_parse_entry(entry.strip()) for entry in entries.split(",")))


def _parse_entry(entry: str) -> HostRule:
    scheme, separator, authority = entry.rpartition("://")
    host = authority.removeprefix(_SUBDOMAINS)
    try:
        url = parse_url(f"{scheme if separator else 'https'}://{host}")
    except UnusableDocumentError as error:
        raise _malformed(entry) from error
    is_for_subdomains = host != authority
    if url.target != "/" or any(character in host for character in "/?"):
        raise _malformed(entry)
    if url.address is not None and (is_for_subdomains or not is_public(url.address)):
        raise ValueError(f"'{entry}' has no public address, and others are never fetched from")
    return HostRule(scheme=url.scheme, host=url.host, port=url.port, is_for_subdomains=is_for_subdomains)


def _malformed(entry: str) -> ValueError:
    return ValueError(f"'{entry}' is not an entry of {_FORMS}")
