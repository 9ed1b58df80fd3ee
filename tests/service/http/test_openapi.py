"""The API description: valid, complete, and true of a live service."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from model import Reranker
from service.app import build_app
from service.dialects import DIALECTS
from service.dialects.dialect import DialectRoute
from service.dialects.examples import PDF_BASE64, PNG_BASE64, REGISTERED_ID, URL_EXAMPLE
from service.dialects.ziprerank import ZipRerankDialect
from service.http.openapi import OperationDescription, describe_api
from service.http.route_table import RouteTable
from tests.documents import make_pdf
from tests.servers import RunningService, fake_loader, running_service, settings_for_tests

TABLE = RouteTable.of_dialects(DIALECTS)
DESCRIPTION: Mapping[str, Any] = json.loads(json.dumps(build_app(settings_for_tests()).openapi()))
OPERATIONS: Mapping[str, Any] = {
    f"{method} {path}": operation
    for path, operations in DESCRIPTION["paths"].items()
    for method, operation in operations.items()
}


def examples() -> Iterator[tuple[str, str]]:
    """Path and name of each example."""
    for path, operations in DESCRIPTION["paths"].items():
        if "requestBody" in operations.get("post", {}):
            of_json = operations["post"]["requestBody"]["content"]["application/json"]
            yield from ((path, name) for name in of_json["examples"])


EXAMPLES = list(examples())


@pytest.fixture(scope="module")
def service(reranker: Reranker) -> Iterator[RunningService]:
    with running_service(fake_loader(reranker), api_key="right") as running:
        running.client.headers["Authorization"] = "Bearer right"
        put = running.client.put(
            f"/documents/{REGISTERED_ID}", content=make_pdf(2), headers={"content-type": "application/pdf"}
        )
        assert put.status_code == 202, put.text
        yield running


def resolved(value: Any) -> Any:
    """The object that a reference names."""
    while "$ref" in value:
        found: Any = DESCRIPTION
        for step in value["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        value = found
    return value


def schema_of(body: Mapping[str, Any]) -> Draft202012Validator:
    """A validator that resolves references into the description."""
    return Draft202012Validator({**body["schema"], "components": DESCRIPTION["components"]})


# Valid


def test_the_description_is_valid() -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(dict(DESCRIPTION)).iter_errors()] == []


def test_every_schema_is_one_by_itself() -> None:
    for schema in DESCRIPTION["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_a_name_of_a_schema_stands_for_one_type() -> None:
    """Where two types have one name, pydantic names both by their modules."""
    assert [name for name in DESCRIPTION["components"]["schemas"] if "__" in name or "-" in name] == []


def test_every_route_is_described_and_no_other() -> None:
    served = {f"{route.method.lower()} {path.replace(':path', '')}" for route in TABLE.routes for path in route.paths}
    assert set(OPERATIONS) == served


# Complete


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_has_a_name_a_summary_a_group_and_headers(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["operationId"].isidentifier() and len(operation["operationId"]) <= 30
    assert operation["summary"] and operation["description"]
    assert operation["tags"] in ([tag["name"]] for tag in DESCRIPTION["tags"])
    for status, response in operation["responses"].items():
        assert set(response["headers"]) >= {"X-Request-Id", "X-ZipRerank-Replica"}
        assert ("Retry-After" in response["headers"]) == (status in ("429", "503"))
        assert ("content" in response) == (status not in ("204", "304")), status


def test_names_of_operations_are_unique() -> None:
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(set(names)) == len(names)


def test_the_models_of_fastapi_that_the_service_never_sends_are_absent() -> None:
    assert not {"HTTPValidationError", "ValidationError"} & set(DESCRIPTION["components"]["schemas"])


@pytest.mark.parametrize("required", [False, True])
def test_keys_are_described_and_optional_where_none_is_configured(required: bool) -> None:
    keys = {"api_key": "right"} if required else {}
    described = build_app(settings_for_tests(**keys)).openapi()
    schemes = described["components"]["securitySchemes"]
    assert [scheme.get("name", scheme.get("scheme")) for scheme in schemes.values()] == [
        "bearer",
        "X-API-Key",
        "api-key",
    ]
    for route in TABLE.routes:
        operation = described["paths"][route.paths[0].replace(":path", "")][route.method.lower()]
        expected: list[dict[str, list[str]]] = [{name: []} for name in schemes]
        assert operation["security"] == ([] if route.door == "open" else expected if required else [{}, *expected])


def test_an_undescribed_route_is_named() -> None:
    app = build_app(settings_for_tests())
    describe_api(app, TABLE, {}, is_key_required=False)
    with pytest.raises(KeyError, match="put_document"):
        app.openapi()


def test_the_description_is_made_once_and_when_it_is_asked_for() -> None:
    app = build_app(settings_for_tests())
    assert app.openapi_schema is None
    assert app.openapi() is app.openapi()


@dataclass(frozen=True)
class Shelf(ZipRerankDialect):
    """A dialect with an example whose name another dialect has for another body."""

    name: str = "shelf"
    routes: Sequence[DialectRoute] = (
        DialectRoute(path="/shelf", name="shelf", description="…", examples={"text": {"query": "locks"}}),
    )


def test_two_examples_of_one_name_are_refused() -> None:
    app = build_app(settings_for_tests())
    descriptions = {route.name: OperationDescription(summary="…", text="…") for route in TABLE.routes}
    describe_api(app, RouteTable.of_dialects([*DIALECTS, Shelf()]), descriptions, is_key_required=False)
    with pytest.raises(RuntimeError, match="Two examples have the name text"):
        app.openapi()


# True of a live service


@pytest.mark.parametrize(("path", "name"), EXAMPLES)
def test_an_example_is_answered_as_described(service: RunningService, path: str, name: str) -> None:
    operation = OPERATIONS[f"post {path}"]
    content = operation["requestBody"]["content"]["application/json"]
    body = resolved(content["examples"][name])["value"]
    schema_of(content).validate(body)
    sent_to = path.replace("{id}", REGISTERED_ID).replace("{model}", "nvidia/some-model")
    response = service.client.post(sent_to, json=body)
    assert response.status_code == (422 if name == URL_EXAMPLE else 200), response.text
    if name == URL_EXAMPLE:
        assert response.json()["code"] == "url_not_supported"
    answered = operation["responses"][str(response.status_code)]["content"]["application/json"]
    schema_of(answered).validate(response.json())


def test_there_is_an_example_for_every_form_and_dialect() -> None:
    shown = {name for path, name in EXAMPLES if path == "/v1/rerank"}
    forms = {
        "text", "registered_page", "registered_document", "data_uri", "data_uri_with_pages", "base64", "json_in_a_string",
        "pdf_object", "image_object", "registered_object", "text_object", "image_with_text", "content_parts",
        "image_url_object", "list_of_parts", "elastic_object", "one_document", "url", "url_in_a_string", "mixed",
    }  # fmt: skip
    assert forms <= shown
    for dialect in DIALECTS:
        for route in dialect.routes:
            assert route.examples, f"{dialect.name} {route.path}"


def test_the_files_in_the_examples_are_shown_once() -> None:
    """The paths refer to them, so that the description stays small."""
    paths = json.dumps(DESCRIPTION["paths"])
    assert PDF_BASE64 not in paths and PNG_BASE64 not in paths


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name.startswith("get ") and "{id}" not in name])
def test_a_get_route_answers_as_described(service: RunningService, name: str) -> None:
    path = name.removeprefix("get ")
    operation, response = OPERATIONS[name], service.client.get(path)
    assert response.status_code == 200
    media_type = response.headers["content-type"].partition(";")[0]
    answered = operation["responses"]["200"]["content"][media_type]
    if media_type == "application/json":
        schema_of(answered).validate(response.json())
    if operation["security"]:
        refused = service.client.get(path, headers={"Authorization": "wrong"})
        assert refused.status_code == 401
        schema_of(operation["responses"]["401"]["content"]["application/json"]).validate(refused.json())


def test_the_page_of_the_description_is_served(service: RunningService) -> None:
    page = service.client.get("/docs")
    assert page.status_code == 200 and "/openapi.json" in page.text
    assert set(service.client.get("/openapi.json").json()["paths"]) == set(DESCRIPTION["paths"])
