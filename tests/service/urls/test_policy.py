import pytest

from service.urls.policy import UrlPolicy, parse_policy
from service.urls.url import parse_url


def allows(policy: str, url: str) -> bool:
    return parse_policy(policy).allows(parse_url(url))


def test_nothing_is_allowed_unless_something_is_listed() -> None:
    assert UrlPolicy().is_off and not UrlPolicy().allows(parse_url("https://example.org/"))
    assert parse_policy("off").is_off and not allows("off", "https://example.org/")


@pytest.mark.parametrize(
    ("policy", "allowed", "refused"),
    [
        (
            "public",
            ["https://example.org/a", "https://example.org:443/"],
            ["http://example.org/", "https://example.org:8443/"],
        ),
        (
            "example.org",
            ["https://example.org/", "https://EXAMPLE.org:443/"],
            [
                "https://a.example.org/",
                "https://example.org.evil.test/",
                "https://badexample.org/",
                "http://example.org/",
            ],
        ),
        (
            " Example.org , *.example.net",
            ["https://example.org/", "https://a.example.net/", "https://a.b.example.net/"],
            ["https://example.net/", "https://badexample.net/", "https://a.example.org/"],
        ),
        ("example.org:8443", ["https://example.org:8443/"], ["https://example.org/", "http://example.org:8443/"]),
        ("http://example.org", ["http://example.org/"], ["https://example.org/", "http://example.org:443/"]),
        ("https://*.example.org:444", ["https://a.example.org:444/"], ["https://a.example.org/"]),
        ("8.8.8.8,[2606:4700::1111]", ["https://8.8.8.8/", "https://[2606:4700:0::1111]/"], ["https://8.8.4.4/"]),
    ],
)
def test_hosts_of_a_list(policy: str, allowed: list[str], refused: list[str]) -> None:
    assert not parse_policy(policy).is_off
    assert [url for url in allowed if not allows(policy, url)] == []
    assert [url for url in refused if allows(policy, url)] == []


@pytest.mark.parametrize(
    "entry",
    [
        "", "*", "*.", "*.org", "**.example.org", "a.*.example.org", "example .org", "example.org/", "example.org/path",
        "example.org?", "example.org#", "user@example.org", "localhost", "intranet", "example.org.", "ftp://example.org",
        "://example.org", "example.org:0", "example.org:99999", "example.org:", "bücher.example", "a\\b.example", "OFF", "all",
        "10.0.0.1", "127.0.0.1", "169.254.169.254", "[::1]", "[::ffff:8.8.8.8]", "*.8.8.8.8", "0x8.8.8.8", "2130706433",
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_read_fails_closed(entry: str) -> None:
    for text in (entry, f"example.org,{entry}"):
        with pytest.raises(ValueError, match=r"is not an entry|no public address") as caught:
            parse_policy(text)
        assert f"'{entry}'" in str(caught.value)


@pytest.mark.parametrize("word", ["off", "public"])
def test_a_word_stands_alone(word: str) -> None:
    with pytest.raises(ValueError, match=f"'{word}' is not an entry"):
        parse_policy(f"example.org,{word}")
