"""The caller is made of the key that was sent, in any of the usual headers: key checked, tenant by scope, an id."""

import hashlib
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from service.api_keys import ApiKey, KeyRing, hash_of, write_keys
from service.errors import UnauthorizedError
from service.http.callers import Callers

KEY, OTHER = "sk-9f3a", "sk-77c1"
OPEN = KeyRing()


@pytest.fixture
def keys(tmp_path: Path) -> KeyRing:
    """One key of a setting, one of a file."""
    write_keys(tmp_path / "keys.json", [ApiKey(id="team", sha256=hash_of(OTHER), max_concurrent_requests=3)])
    return KeyRing(single=KEY, path=tmp_path / "keys.json")


def sending(authorization: str | None) -> Headers:
    return Headers({} if authorization is None else {"authorization": authorization})


@pytest.mark.parametrize(
    "authorization", [f"Bearer {KEY}", f"bearer {KEY}", f"Bearer   {KEY} ", f"Bearer {OTHER}", KEY]
)
def test_each_configured_key_is_accepted_whatever_the_case_of_the_scheme(keys: KeyRing, authorization: str) -> None:
    caller = Callers(keys=keys, cache_scope="shared").identify(sending(authorization))
    assert caller.is_known and caller.id == ("team" if OTHER in authorization else "default")


@pytest.mark.parametrize(
    "authorization", [None, "", f"Basic {KEY}", "Bearer", "Bearer wrong", f"Bearer {KEY}x", "Bearer é"]
)
def test_any_other_header_is_refused(keys: KeyRing, authorization: str | None) -> None:
    with pytest.raises(UnauthorizedError) as refusal:
        Callers(keys=keys, cache_scope="shared").identify(sending(authorization))
    assert (refusal.value.code, refusal.value.param) == ("unauthorized", "authorization")


@pytest.mark.parametrize("authorization", [None, "Bearer anything", "Basic dTpw"])
def test_without_configured_keys_every_caller_is_accepted(authorization: str | None) -> None:
    assert not Callers(keys=OPEN, cache_scope="shared").identify(sending(authorization)).is_known


def test_in_the_shared_scope_all_callers_are_one_tenant() -> None:
    callers = Callers(keys=OPEN, cache_scope="shared")
    tenants = {callers.identify(sending(sent)).tenant for sent in (None, f"Bearer {KEY}", f"Bearer {OTHER}")}
    assert tenants == {b""}


def test_with_a_scope_per_key_each_header_is_a_tenant_and_callers_without_are_one() -> None:
    callers = Callers(keys=OPEN, cache_scope="per_key")
    sent = [None, f"Bearer {KEY}", f"Bearer {OTHER}"]
    tenants = [callers.identify(sending(authorization)).tenant for authorization in sent]
    assert len(set(tenants)) == 3
    assert tenants == [callers.identify(sending(authorization)).tenant for authorization in sent]
    assert b"" not in tenants  # which is the tenant of the shared scope


def test_a_callers_id_is_a_short_digest_of_its_key_whatever_the_scope() -> None:
    ids = {
        Callers(keys=OPEN, cache_scope=scope).identify(sending(f"{scheme} {KEY}")).id
        for scope in ("shared", "per_key")
        for scheme in ("Bearer", "bearer")
    }
    assert ids == {hashlib.sha256(KEY.encode()).hexdigest()[:12]}


def test_a_caller_without_a_key_has_no_id() -> None:
    assert Callers(keys=OPEN, cache_scope="per_key").identify(sending(None)).id == ""


@pytest.mark.parametrize("name", ["X-API-Key", "api-key", "Api-Key"])
def test_a_key_may_come_in_the_headers_of_other_services(keys: KeyRing, name: str) -> None:
    callers = Callers(keys=keys, cache_scope="shared")
    assert callers.identify(Headers({name: f" {OTHER} "})).id == "team"
    with pytest.raises(UnauthorizedError):
        callers.identify(Headers({name: "wrong"}))


def test_the_authorization_header_wins_over_the_others(keys: KeyRing) -> None:
    with pytest.raises(UnauthorizedError):
        Callers(keys=keys, cache_scope="shared").identify(Headers({"authorization": "Bearer wrong", "x-api-key": KEY}))


def test_a_known_key_gives_its_id_and_limits_and_the_tenant_follows_the_id(keys: KeyRing) -> None:
    callers = Callers(keys=keys, cache_scope="per_key")
    first, second = callers.identify(sending(f"Bearer {KEY}")), callers.identify(Headers({"x-api-key": OTHER}))
    assert (first.id, second.id, first.is_known, second.is_known) == ("default", "team", True, True)
    assert second.limits.max_concurrent_requests == 3 and first.limits.max_concurrent_requests is None
    assert second.tenant == callers.identify(sending(OTHER)).tenant != first.tenant
    assert not Callers(keys=OPEN, cache_scope="per_key").identify(sending(KEY)).is_known


def test_callers_share_by_key_id_else_by_the_sent_key_else_by_address(keys: KeyRing) -> None:
    known, unknown = Callers(keys=keys, cache_scope="shared"), Callers(keys=OPEN, cache_scope="shared")
    senders = [(sending(KEY), "192.0.2.1"), (sending(KEY), "192.0.2.2"), (sending(OTHER), "192.0.2.1")]
    for callers in (known, unknown):
        first, same, other = (callers.identify(headers, address).share_id for headers, address in senders)
        assert first == same != other
    one, two = (unknown.identify(sending(None), address).share_id for address in ("192.0.2.1", "192.0.2.2"))
    assert one != two and one == unknown.identify(sending(None), "192.0.2.1").share_id


@pytest.mark.parametrize(
    ("address", "same", "other"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"),
        ("::ffff:192.0.2.1", "192.0.2.1", "::ffff:192.0.2.2"),
        ("fe80::1%eth0", "fe80::2%eth0", "2001:db8::1"),
        ("unknown:port", "unknown:port", "unknown"),
    ],
)
def test_an_ipv6_network_is_one_caller(address: str, same: str, other: str) -> None:
    callers = Callers(keys=OPEN, cache_scope="shared")
    first, second, third = (callers.identify(sending(None), text).share_id for text in (address, same, other))
    assert first == second != third
