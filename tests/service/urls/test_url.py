import pytest

from service.errors import UnusableDocumentError
from service.urls.url import MAX_URL_CHARACTERS, Url, follow, parse_url


def parts(url: Url) -> tuple[str, str, int, str]:
    return url.scheme, url.host, url.port, url.target


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://example.org", ("https", "example.org", 443, "/")),
        ("HTTPS://Example.ORG/A/b.pdf?c=D&e=//f@g:h", ("https", "example.org", 443, "/A/b.pdf?c=D&e=//f@g:h")),
        ("http://example.org:8080/a", ("http", "example.org", 8080, "/a")),
        ("https://example.org?a=b", ("https", "example.org", 443, "/?a=b")),
        ("https://xn--bcher-kva.example/%C3%A4.png", ("https", "xn--bcher-kva.example", 443, "/%C3%A4.png")),
        ("https://my_bucket.store.example/", ("https", "my_bucket.store.example", 443, "/")),
        ("https://8.8.8.8/", ("https", "8.8.8.8", 443, "/")),
        ("https://[2606:4700:0:0::1111]:444/", ("https", "2606:4700::1111", 444, "/")),
    ],
)
def test_a_url_in_parts(text: str, expected: tuple[str, str, int, str]) -> None:
    assert parts(parse_url(text)) == expected


HOSTILE = {
    "other schemes": ["ftp://example.org/a", "file:///etc/passwd", "gopher://example.org/", "javascript:a", "data:,a"],
    "no host": ["https://", "https:///a", "https:example.org", "https:/example.org", "//example.org/a", "example.org"],
    "credentials": ["https://user@example.org/", "https://user:secret@example.org/", "https://a.example@b.example/"],
    "backslashes": ["https://a.example\\@b.example/", "https:\\\\a.example/", "https://a.example\\.b.example/", "https://a.example/a\\b"],
    "control characters": ["https://a.exam\tple/", "https://a.example/\r\nX: y", "https://a.example/\0"],
    "spaces": ["https://a.example/ b", "https://a. example/"],
    "beyond ASCII": ["https://bücher.example/", "https://a.example/ä", "https://ａ.example/", "https://a。example/"],
    "fragments": ["https://a.example/a.pdf#view", "https://a.example#@b.example/", "https://a.example/#"],
    "decimal": ["https://2130706433/", "https://1.2/", "https://127.1/"],
    "octal": ["https://0177.0.0.1/", "https://010.1.1.1/", "https://127.0.0.01/"],
    "hexadecimal": ["https://0x7f000001/", "https://0x7f.0.0.1/", "https://127.0.0.0x1/", "https://a.0x/"],
    "too many numbers": ["https://1.2.3.4.5/", "https://256.1.1.1/", "https://a.1/"],
    "brackets": ["https://[::1/", "https://::1/", "https://[]/", "https://[a.example]/", "https://[1.2.3.4]/"],
    "interfaces": ["https://[fe80::1%25eth0]/", "https://[fe80::1%eth0]/"],
    "names": ["https://localhost/", "https://a..example/", "https://.a.example/", "https://-a.example/"],
    "a long label": [f"https://{'a' * 64}.example/"],
    "dots at the end": ["https://a.example./", "https://127.0.0.1./", "https://localhost./"],
    "encoded hosts": ["https://a%2eexample/", "https://a.example%00.b.example/", "https://a.example%2f@b.example/"],
    "ports": ["https://a.example:/", "https://a.example:0/", "https://a.example:65536/", "https://a.example:4 43/", "https://a.example:-1/"],
    "a long name": [f"https://{'a.' * 130}example/"],
    "a long URL": [f"https://a.example/{'a' * MAX_URL_CHARACTERS}"],
}  # fmt: skip


@pytest.mark.parametrize("text", [text for texts in HOSTILE.values() for text in texts])
def test_a_form_that_parsers_read_differently_is_refused(text: str) -> None:
    with pytest.raises(UnusableDocumentError) as caught:
        parse_url(text)
    assert (caught.value.code, caught.value.field) == ("url_refused", "content")
    assert len(caught.value.message) < 200 and "secret" not in caught.value.message


@pytest.mark.parametrize("text", HOSTILE["credentials"])
def test_credentials_are_refused_as_such(text: str) -> None:
    with pytest.raises(UnusableDocumentError, match="user name or password"):
        parse_url(text)


def test_the_host_as_an_address() -> None:
    assert str(parse_url("https://[2606:4700::1111]/").address) == "2606:4700::1111"
    assert str(parse_url("https://8.8.8.8/").address) == "8.8.8.8"
    assert parse_url("https://8.8.8.8.example/").address is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://a.example/b", "https://a.example"),
        ("https://a.example:443/b", "https://a.example"),
        ("http://a.example:443/b", "http://a.example:443"),
        ("https://[2606:4700::1111]:444/b", "https://[2606:4700::1111]:444"),
    ],
)
def test_the_origin_has_the_port_where_it_is_another(text: str, expected: str) -> None:
    assert parse_url(text).origin == expected


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/c", ("https", "a.example", 444, "/c")),
        ("c?d", ("https", "a.example", 444, "/x/c?d")),
        ("../c#page=3", ("https", "a.example", 444, "/c")),
        ("//b.example/c", ("https", "b.example", 443, "/c")),
        ("http://b.example/c#d", ("http", "b.example", 80, "/c")),
    ],
)
def test_a_redirect_is_read_by_the_same_parser(location: str, expected: tuple[str, str, int, str]) -> None:
    assert parts(follow(parse_url("https://a.example:444/x/y?z"), location)) == expected


@pytest.mark.parametrize(
    "location",
    [
        "https://user:secret@b.example/", "//b.example\\@c.example/", "https://[::1", "https://[", "ftp://b.example/",
         "/\u00e4", "/ b", "/a\tb", "//b.exa\tmple/", "https://2130706433/", "//localhost/",
    ],
)  # fmt: skip
def test_a_redirect_that_parsers_read_differently_is_refused(location: str) -> None:
    with pytest.raises(UnusableDocumentError) as caught:
        follow(parse_url("https://a.example/x"), location)
    assert caught.value.code == "url_refused"
