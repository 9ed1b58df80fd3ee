"""The addresses of servers that commands take."""

from urllib.parse import urlsplit


def is_server_url(url: str) -> bool:
    """Whether it is an http or https address with a host and perhaps a path, and without a user, a query and a fragment."""
    try:
        address = urlsplit(url)
        is_usable = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
        is_bare = address.username is None and not address.query and not address.fragment
    except ValueError:
        return False
    return is_usable and is_bare and url.isascii() and url.isprintable() and " " not in url


def is_sendable_key(key: str) -> bool:
    """Whether an API key can stand in a header."""
    return key.isascii() and key.isprintable()
