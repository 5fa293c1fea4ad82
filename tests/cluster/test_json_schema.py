"""JSON schemas of configs: each reference leads to a schema in them."""

import pytest

from raymill.cluster.json_schema import check_json_schema

DRAFT_7 = "http://json-schema.org/draft-07/schema#"


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"properties": {"child": {"$ref": "#"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": True}},
        {"$ref": "#name", "$defs": {"a": {"$anchor": "name"}}},
        {"$dynamicRef": "#name", "$defs": {"a": {"$dynamicAnchor": "name"}}},
        {"$id": "http://x/a", "$ref": "b", "$defs": {"q": {"$id": "b", "type": "string"}}},
        {"$ref": "#/x/y", "x": {"y": {"$ref": "#/x/z"}, "z": {}}},
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
        {"properties": {"$ref": {"type": "string"}}, "const": {"$ref": "#/nowhere"}},
        {"$schema": DRAFT_7, "definitions": {"a": {}}, "$ref": "#/definitions/a"},
    ],
)
def test_references_to_parts_of_the_schema_are_taken(schema):
    check_json_schema(schema, of_any_draft=True)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "thing"},
        {"properties": {"rare": {"$ref": "#/$defs/b"}}, "$defs": {"a": {}}},
        {"properties": {"rare": {"items": {"anyOf": [{}, {"$ref": "http://localhost:9/x"}]}}}},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "http://[x"},
        {"$ref": "#name"},
        {"$dynamicRef": "#name"},
        {"$ref": "#/x", "x": {"$ref": "#/q"}},
        {"$ref": "#/x", "x": {"type": "thing"}},
        {"$ref": "#/x/y", "x": {"y": [1]}},
        {"$ref": "#/allOf/x", "allOf": [{}]},
        {"$ref": "#/title/x", "title": "a"},
        {"$ref": "#/maxLength/x", "maxLength": 5},
        {"$schema": DRAFT_7, "$ref": "#/definitions/a"},
    ],
)
def test_a_reference_to_anything_else_is_refused(schema):
    with pytest.raises(ValueError, match=r"is not part of the schema|\$.type: 'thing' is not valid"):
        check_json_schema(schema, of_any_draft=True)


@pytest.mark.parametrize("schema", [{"$schema": 5}, {"$schema": ["x"]}, {"$schema": {}}])
def test_what_is_no_schema_at_all_is_refused(schema):
    with pytest.raises(ValueError, match=r"is no JSON schema|\$schema"):
        check_json_schema(schema, of_any_draft=True)


def test_a_schema_that_is_too_deep_is_refused():
    schema = {}
    for _ in range(2000):
        schema = {"not": schema}
    with pytest.raises(ValueError, match=r"is no JSON schema \(RecursionError"):
        check_json_schema(schema)
