"""What the server understands, in the form that other tools read: OpenAPI 3.1, at GET /openapi.json.

    description("/tfaas")["paths"]["/json"]["post"]

Paths and contents are those of the modules of each protocol, which `tests/test_openapi.py` holds it to.
"""

from __future__ import annotations

from typing import Any

from mlaas4hep import __version__

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NAME: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}$", "examples": ["htautau"]}
_NUMBER: Schema = {"anyOf": [{"type": "number"}, {"type": "null"}], "description": "null: not measured, or no number"}
_VALUE: Schema = {"anyOf": [_NUMBER, {"type": "array", "items": _NUMBER}]}
_SCORES: Schema = {"type": "array", "items": _NUMBER}
_OBJECT: Schema = {"type": "object"}
_BINARY: Schema = {"type": "string", "format": "binary"}

_SCHEMAS: dict[str, Schema] = {
    "Error": {"type": "object", "properties": {"error": _TEXT}, "required": ["error"], "additionalProperties": False},
    "Params": {"type": "object", "properties": {"name": _NAME, "model": _TEXT, "labels": _TEXT}, "required": ["name"]},
    "Event": {
        "type": "object",
        "properties": {
            "keys": {"type": "array", "items": _TEXT, "description": "columns or branches, in any order"},
            "values": {
                "anyOf": [
                    {"type": "array", "items": _VALUE, "minItems": 1},
                    {"type": "array", "items": {"type": "array", "items": _VALUE}, "minItems": 1},
                ],
                "description": "of one event, or a list of events",
            },
            "model": {**_TEXT, "description": "none: the default model"},
        },
        "required": ["values"],
        "examples": [{"keys": ["MET_pt", "Jet_pt"], "values": [31.2, [64.0, 40.5]], "model": "htautau"}],
    },
    "Classes": {
        "type": "object",
        "properties": {
            "filename": _TEXT,
            "labels": {
                "type": "array",
                "items": {"type": "object", "properties": {"label": _TEXT, "probability": _NUMBER}},
            },
        },
    },
    "Tensor": {
        "type": "object",
        "properties": {
            "name": _TEXT,
            "datatype": {"enum": [
                "BOOL", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64",
                "FP16", "FP32", "FP64",
            ]},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "data": {"type": "array"},
        },
        "required": ["name", "datatype", "shape"],
    },
}  # fmt: skip


def description(base_path: str = "") -> dict[str, Any]:
    """Return the description.

    Args:
        base_path: what stands in front of every route, as in "/tfaas".
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "TFaaS server of MLaaS4HEP",
            "version": __version__,
            "description": "The TFaaS protocol, and the Open Inference Protocol v2, on the same models.",
        },
        "servers": [{"url": base_path or "/"}],
        "paths": {**_tfaas(), **_oip(), **_about()},
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
    }


def _tfaas() -> dict[str, Any]:
    event = _json(_ref("Event"))
    scores = _answers(_json({"anyOf": [_SCORES, {"type": "array", "items": _SCORES}]}), "400", "404")
    image = _form({"image": _BINARY, "model": _TEXT}, "image")
    classes = _answers(_json({"anyOf": [_ref("Classes"), _SCORES]}), "400", "404")
    upload = {
        **_form({"name": _NAME, "params": _BINARY, "model": _BINARY, "labels": _BINARY},
                "name", "params", "model", "labels"),
        "application/octet-stream": {"schema": {**_BINARY, "description": "a tar archive, or tar.gz"}},
    }  # fmt: skip
    row = {"application/octet-stream": {"schema": {**_BINARY, "description": "protobuf, tfaaspb.Row"}}}
    predictions = _answers({"application/octet-stream": {"schema": _BINARY}}, "400", "404")
    changed = _answers({}, "400", "401", "403", "404", "409", "413")
    archive = {"application/octet-stream": {"schema": _BINARY}}
    file = _answers({"application/octet-stream": {"schema": _BINARY}}, "400", "404")
    which = {"name": "model", "in": "query", "required": True, "schema": _NAME}
    return {
        "/models": {"get": _operation("All models", _answers(_json({"type": "array", "items": _ref("Params")})))},
        "/params/{model}": {"get": _operation("One model", _answers(_json(_ref("Params")), "400", "404"), "model")},
        "/params": {"post": _operation("Set the default model", changed, body=_json(_ref("Params")))},
        "/data": {"get": {**_operation("A model's file", file), "parameters": [which]}},
        "/upload": {"post": _operation("Add or replace a model", changed, body=upload)},
        "/bundle": {"post": _operation("Add or replace a model", changed, body=archive)},
        "/delete/{model}": {"delete": _operation("Delete a model", changed, "model")},
        "/delete": {"delete": _operation("Delete a model", changed)},
        "/json": {"post": _operation("Scores of one event or many", scores, body=event)},
        "/predict/json": {"post": _operation("Scores of one event or many", scores, body=event)},
        "/proto": {"post": _operation("Scores of one event", predictions, body=row)},
        "/predict/proto": {"post": _operation("Scores of one event", predictions, body=row)},
        "/image": {"post": _operation("Classes of an image", classes, body=image)},
        "/predict/image": {"post": _operation("Classes of an image", classes, body=image)},
        "/status": {"get": _operation("The machine and the server", _answers(_json(_OBJECT)))},
    }  # fmt: skip


def _oip() -> dict[str, Any]:
    model = {
        "type": "object",
        "properties": {
            "name": _NAME, "versions": {"type": "array", "items": _TEXT}, "platform": _TEXT,
            "inputs": {"type": "array", "items": _ref("Tensor")},
            "outputs": {"type": "array", "items": _ref("Tensor")},
            "parameters": _OBJECT,
        },
        "required": ["name", "platform", "inputs", "outputs"],
    }  # fmt: skip
    tensors = {"type": "array", "items": _ref("Tensor"), "minItems": 1, "maxItems": 1}
    ask = {"type": "object", "properties": {"id": _TEXT, "inputs": tensors}, "required": ["inputs"]}
    answer = {
        "type": "object",
        "properties": {"model_name": _NAME, "model_version": _TEXT, "id": _TEXT, "outputs": tensors},
        "required": ["model_name", "outputs"],
    }
    found: dict[str, Any] = {
        "/v2": {"get": _operation("What this server is", _answers(_json(_OBJECT)))},
        "/v2/health/live": {"get": _operation("Whether the server answers", _answers(_json(_OBJECT)))},
        "/v2/health/ready": {"get": _operation("Whether the server can read its models", _answers(_json(_OBJECT)))},
        "/v2/repository/index": {
            "post": _operation(
                "All models", _answers(_json({"type": "array", "items": _OBJECT}), "400"),
                body=_json({"type": "object", "properties": {"ready": {"type": "boolean"}}}),
            )
        },
    }  # fmt: skip
    for path, names in (
        ("/v2/models/{model}", ["model"]),
        ("/v2/models/{model}/versions/{version}", ["model", "version"]),
    ):
        found[path] = {"get": _operation("Tensors of a model", _answers(_json(model), "400", "404"), *names)}
        found[f"{path}/ready"] = {
            "get": _operation("Whether a model can be run", _answers(_json(_OBJECT), "400", "404"), *names)
        }
        found[f"{path}/infer"] = {
            "post": _operation("Scores of a batch", _answers(_json(answer), "400", "404"), *names, body=_json(ask))
        }
    return found


def _about() -> dict[str, Any]:
    report = _answers({"text/html": {"schema": _TEXT}}, "400", "404")
    return {
        "/about/{model}": {
            "get": _operation("What a model takes and came with", _answers(_json(_OBJECT), "400", "404"), "model")
        },
        "/report/{model}": {"get": _operation("The report of the training", report, "model")},
        "/metrics": {"get": _operation("Counters, for Prometheus", _answers({"text/plain": {"schema": _TEXT}}))},
        "/openapi.json": {"get": _operation("This description", _answers(_json(_OBJECT)))},
    }


def _operation(
    summary: str, answers: dict[str, Any], *names: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return an operation.

    Args:
        summary: what it is for, in a few words.
        answers: what it may answer, by status.
        names: parameters in the path.
        body: what may be sent, by content type.
    """
    schemas = {"model": _NAME, "version": {**_TEXT, "examples": ["1"]}}
    parameters = [{"name": name, "in": "path", "required": True, "schema": schemas[name]} for name in names]
    sent = {"requestBody": {"required": True, "content": body}} if body else {}
    return {"summary": summary, **({"parameters": parameters} if names else {}), **sent, "responses": answers}


def _answers(content: dict[str, Any], *errors: str) -> dict[str, Any]:
    good = {"description": "It is done", **({"content": content} if content else {})}
    bad = {"description": "The error says what to change", "content": _json(_ref("Error"))}
    return {"200": good, "default": bad, **dict.fromkeys(errors, bad)}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _form(fields: dict[str, Schema], *required: str) -> dict[str, Any]:
    return {"multipart/form-data": {"schema": {"type": "object", "properties": fields, "required": list(required)}}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
