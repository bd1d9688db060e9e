"""The OpenAPI document is true: its examples are valid, and nothing that it lets a client send breaks the service.

Schemathesis makes requests from the document and checks each answer against it.
"""

import json
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def test_what_the_document_allows_is_answered_as_it_says(service):
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    tried = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def answered_as_it_says(case):
            if isinstance(case.body, dict):
                limit_length(case.body)
            case.call_and_validate(base_url=service.url, checks=CHECKS, timeout=120)

        answered_as_it_says()
        tried += 1
    assert tried >= 8


def limit_length(body: dict[str, Any]) -> None:
    """Answers of few tokens, so that many requests fit into a test."""
    for name in ("max_new_tokens", "max_tokens", "max_completion_tokens"):
        if isinstance(body.get(name), int):
            body[name] = min(body[name], 2)


def test_every_example_is_valid(service):
    document = service.client.get("/openapi.json").json()
    checked = 0
    for place, schema, example in examples(document, document, ""):
        registry = {"components": document["components"]} | schema
        try:
            jsonschema.validate(example, registry)
        except jsonschema.ValidationError as error:
            pytest.fail(f"{place}: {error.message}")
        checked += 1
    assert checked > 20


def examples(node: Any, document: dict, place: str):
    """(place, schema, example) of every example in the document that has a schema."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from examples(item, document, f"{place}/{index}")
    if not isinstance(node, dict):
        return
    if isinstance(node.get("examples"), list):
        for example in node["examples"]:
            yield place, {key: value for key, value in node.items() if key != "examples"}, example
    if "example" in node and "application/json" in place:
        yield place, node.get("schema", {}), node["example"]
    for key, value in node.items():
        if key not in ("example", "examples"):
            yield from examples(value, document, f"{place}/{key}")


def test_examples_of_requests_are_answered(service):
    document = service.client.get("/openapi.json").json()
    bodies = document["components"]["schemas"]["ChatRequest"]["examples"]
    assert len(bodies) > 1
    for body in bodies:
        response = service.client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text


def test_every_operation_says_how_it_fails(service):
    document = service.client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation.get("summary"), (path, method)
            assert operation.get("description"), (path, method)
            if path not in ("/live", "/metrics"):
                assert any(status.startswith(("4", "5")) for status in operation["responses"]), (path, method)
            assert "422" not in operation["responses"], (path, method)
    json.dumps(document)
