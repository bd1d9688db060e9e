"""The OpenAPI document: FastAPI's, and the bodies that our routes read by themselves."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema


def describe_bodies(app: FastAPI, *bodies: type[BaseModel]) -> None:
    """Adds models that routes refer to by name, and drops FastAPI's 422: wrong input is answered with 400."""
    build = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = build()
            schemas = document["components"]["schemas"]
            _, definitions = models_json_schema(
                [(body, "validation") for body in bodies], ref_template="#/components/schemas/{model}"
            )
            schemas.update(definitions["$defs"])
            for operations in document["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            for schema in schemas.values():
                for example in schema.get("examples", ()):
                    _restore_nulls(example, schema, schemas)
        return app.openapi_schema

    app.openapi = openapi


def _restore_nulls(example: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Puts back what FastAPI strips from examples: null in fields that an answer always has."""
    if reference := schema.get("$ref"):
        schema = schemas[reference.rsplit("/", 1)[1]]
    if isinstance(example, list):
        for item in example:
            _restore_nulls(item, schema.get("items", {}), schemas)
    if isinstance(example, dict):
        properties = schema.get("properties", {})
        for name in schema.get("required", ()):
            kinds = [kind.get("type") for kind in [properties[name], *properties[name].get("anyOf", ())]]
            if name not in example and "null" in kinds:
                example[name] = None
        for name, value in example.items():
            _restore_nulls(value, properties.get(name, {}), schemas)
