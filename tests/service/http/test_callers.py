"""The caller is made of the Authorization header alone: key checked, tenant by scope, an id that gives nothing away."""

import hashlib

import pytest
from starlette.datastructures import Headers

from service.errors import UnauthorizedError
from service.http.callers import Callers

KEY, OTHER = "sk-9f3a", "sk-77c1"


def sending(authorization: str | None) -> Headers:
    return Headers({} if authorization is None else {"authorization": authorization})


@pytest.mark.parametrize("authorization", [f"Bearer {KEY}", f"bearer {KEY}", f"Bearer   {KEY} ", f"Bearer {OTHER}"])
def test_each_configured_key_is_accepted_whatever_the_case_of_the_scheme(authorization: str) -> None:
    Callers(keys=[KEY, OTHER], cache_scope="shared").identify(sending(authorization))


@pytest.mark.parametrize(
    "authorization", [None, "", KEY, f"Basic {KEY}", "Bearer", "Bearer wrong", f"Bearer {KEY}x", "Bearer é"]
)
def test_any_other_header_is_refused(authorization: str | None) -> None:
    with pytest.raises(UnauthorizedError) as refusal:
        Callers(keys=[KEY, OTHER], cache_scope="shared").identify(sending(authorization))
    assert (refusal.value.code, refusal.value.param) == ("unauthorized", "authorization")


@pytest.mark.parametrize("authorization", [None, "Bearer anything", "Basic dTpw"])
def test_without_configured_keys_every_caller_is_accepted(authorization: str | None) -> None:
    Callers(keys=[], cache_scope="shared").identify(sending(authorization))


def test_in_the_shared_scope_all_callers_are_one_tenant() -> None:
    callers = Callers(keys=[], cache_scope="shared")
    tenants = {callers.identify(sending(sent)).tenant for sent in (None, f"Bearer {KEY}", f"Bearer {OTHER}")}
    assert tenants == {b""}


def test_with_a_scope_per_key_each_header_is_a_tenant_and_callers_without_are_one() -> None:
    callers = Callers(keys=[], cache_scope="per_key")
    sent = [None, f"Bearer {KEY}", f"Bearer {OTHER}"]
    tenants = [callers.identify(sending(authorization)).tenant for authorization in sent]
    assert len(set(tenants)) == 3
    assert tenants == [callers.identify(sending(authorization)).tenant for authorization in sent]
    assert b"" not in tenants  # which is the tenant of the shared scope


def test_a_callers_id_is_a_short_digest_of_its_key_whatever_the_scope() -> None:
    ids = {
        Callers(keys=[], cache_scope=scope).identify(sending(f"{scheme} {KEY}")).id
        for scope in ("shared", "per_key")
        for scheme in ("Bearer", "bearer")
    }
    assert ids == {hashlib.sha256(KEY.encode()).hexdigest()[:12]}


def test_a_caller_without_a_key_has_no_id() -> None:
    assert Callers(keys=[], cache_scope="per_key").identify(sending(None)).id == ""
