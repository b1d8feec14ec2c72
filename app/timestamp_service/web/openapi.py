"""The OpenAPI 3.1 document of both APIs: each path, each method, and each error that it may give."""

import json
from http import HTTPStatus
from typing import Any

from timestamp_service import __version__, identifiers, instants
from timestamp_service.web import problems, routes
from timestamp_service.web.reply import JSON

_IDEMPOTENCY_KEY_EXAMPLE = "8e03978e-40d5-43e8-bc93-6894a57f9324"
_CURSOR_EXAMPLE = "MjAwOS0wOS0yOFQxOTowMzoxMlogMDE4OTBhNWQtYWM5Ni03NzRiLWJjY2UtYjMwMjA5OWE4MDU3"

# What both APIs, and nginx in front of them, may answer to any request.
_ANYWHERE = (400, 406, 408, 414, 429, 431, 500, 502, 503, 504)

_ERRORS = {
    400: "A timestamp, id, parameter, header or body is malformed; `detail` says what was expected.",
    404: "There is no such record (yet), or nothing at this path.",
    405: "The path does not have this method; the header `Allow` names those that it has.",
    406: f"The header `Accept` does not allow what the answer is ({JSON} in most cases).",
    408: "The request took too long to arrive.",
    413: "The body is larger than 1 MiB, or holds more than 10,000 instants.",
    414: "The path and the query are too long.",
    415: "The body is neither `application/json` nor `application/x-ndjson`, or it is compressed.",
    422: "One or more instants are not accepted; `errors` names the index of each. Nothing was recorded.",
    429: "Too many requests; only where a limit is configured.",
    431: "The headers are too long.",
    500: "Something went wrong; the log has it under the `correlationId`.",
    502: "The service behind this path is not running at the moment.",
    503: "Kafka or the database does not answer, or too many requests are in progress. Where `detail` says "
    "that a record may exist, a retry is safe with the same `Idempotency-Key`. "
    "A POST may wait for 15 s before, while a Kafka cluster fails over.",
    504: "The service did not answer in time. Repeating a POST is safe with the same `Idempotency-Key`.",
}
_RETRIED = (404, 429, 502, 503, 504)

_INTRODUCTION = f"""
Records instants, and reads them back to the nanosecond.

A `200` to a POST means that the record is in the log, on all in-sync replicas. It can be read a moment later;
a GET waits for it (see the header `Prefer`).

**Timestamps** are RFC 3339 (section 5.6): `{instants.EXAMPLE}`. An offset is required (`Z` or
`±hh:mm`), `T` may be `t` or a space, the fraction has 1 to 9 digits, and the year is 0001 to 9999 in UTC.
There are no leap seconds. They are answered in UTC with the fraction that was sent, without trailing zeros.

**Retries** are safe with the header `Idempotency-Key`: the same key and the same timestamp give the same id.

**Errors** are problems (RFC 9457, `{problems.MEDIA_TYPE}`). A path answers `405` to a method that it does not
have, with its methods in the header `Allow`; `OPTIONS` answers these too.

**correlationId** stands in each log line of a request, in all services. Send one (any UUID), or take the one
that is answered.
""".strip()


def document() -> bytes:
    """Return the document as JSON."""
    return json.dumps(content(), ensure_ascii=False, separators=(",", ":")).encode()


def content() -> dict[str, Any]:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "timestamp-service",
            "version": __version__,
            "summary": "Records instants in a Kafka log, and reads them back from PostgreSQL.",
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "Record", "description": "Writing"},
            {"name": "Read", "description": "Reading"},
            {"name": "Operate", "description": "For machines and those who operate them"},
        ],
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "parameters": _parameters(),
            "headers": _headers(),
            "responses": {f"Problem{status}": _problem(status) for status in _ERRORS},
        },
    }


def _paths() -> dict[str, Any]:
    now = _recording(
        "Record the current time",
        "The instant is that of the service's clock, in UTC.",
        [],
    )
    return {
        routes.RECORD.replace("{text}", "{value}"): {
            **_reading(
                "getRecord",
                "Read a record",
                "A record never changes: it may be kept for ever, and is not sent again to a client that has "
                "it (`If-None-Match`). An id without a record is waited for: up to `Prefer: wait=N` seconds, "
                "by default up to 2 s where it may be fresh (a UUIDv7 of the last 10 s, or a UUIDv5).",
                [_identifier(), _ref("parameters", "Prefer"), _ref("parameters", "IfNoneMatch")],
                _schema("Record"),
                {
                    "ETag": _ref("headers", "ETag"),
                    "Cache-Control": _ref("headers", "CacheControl"),
                    "Preference-Applied": _ref("headers", "PreferenceApplied"),
                },
                404,
                not_modified=True,
            ),
            "post": {
                "operationId": "recordTimestamp",
                **_recording(
                    "Record an instant", "A `+` in the path may be percent-encoded or not.", [_timestamp()]
                ),
            },
        },
        routes.NOW[0]: {"post": {"operationId": "recordNow", **now}},
        routes.NOW[1]: {"post": {"operationId": "recordNowWithSlash", **now}},
        routes.NOW[2]: {"post": {"operationId": "recordNowAsApp", **now}},
        routes.RECORDS: {
            **_reading(
                "getRecords",
                "Read records by their instants",
                "In the order of their instants, then of their ids. `from` is part of the range, `to` is "
                "not. For the next page send `next` as `cursor`, and the other parameters again.",
                [_ref("parameters", name) for name in ("From", "To", "Limit", "Cursor")],
                _schema("Page"),
                {"Cache-Control": _ref("headers", "CacheControl")},
            ),
            "post": _bulk(),
        },
        routes.OPENAPI: _reading(
            "getOpenapi", "This document", "OpenAPI 3.1.", [], {"type": "object"}, tag="Operate"
        ),
        routes.DOCS: _reading(
            "getDocs",
            "The page to read and try this",
            "It loads nothing from elsewhere.",
            [],
            {"type": "string"},
            tag="Operate",
            media_type="text/html",
        ),
        routes.HEALTH: _reading(
            "getHealth",
            "Whether the service can answer",
            "No dependency is asked. Through nginx: whether both APIs can answer.",
            [],
            _schema("Status"),
            tag="Operate",
        ),
        routes.READY: _reading(
            "getReady",
            "Whether the dependencies answer",
            "Each service has its own, on the node's loopback; it is not reached through nginx.",
            [],
            _schema("Status"),
            tag="Operate",
        ),
        routes.METRICS: _reading(
            "getMetrics",
            "Figures for Prometheus",
            "Each service has its own, on the node's loopback; it is not reached through nginx.",
            [],
            {"type": "string"},
            tag="Operate",
            media_type="text/plain",
        ),
    }


def _recording(summary: str, description: str, parameters: list[Any]) -> dict[str, Any]:
    return {
        "tags": ["Record"],
        "summary": summary,
        "description": description,
        "parameters": [*parameters, _ref("parameters", "IdempotencyKey"), *_tracing()],
        "responses": {
            "200": {
                "description": "The record is in the log.",
                "headers": {"Location": _ref("headers", "Location"), **_traced()},
                "content": {JSON: {"schema": _schema("Identifier")}},
                "links": {
                    operation_id: {
                        "operationId": operation_id,
                        "parameters": {"value": "$response.body#/id"},
                        "description": "The record of the id that is answered.",
                    }
                    for operation_id in ("getRecord", "headRecord")
                },
            },
            **_errors(413),
        },
    }


def _bulk() -> dict[str, Any]:
    example = [instants.EXAMPLE, "2009-09-28T19:03:12+02:00"]
    return {
        "operationId": "recordTimestamps",
        "tags": ["Record"],
        "summary": "Record many instants",
        "description": "Up to 10,000 instants and 1 MiB. All are checked first: when one is not accepted, "
        "nothing is recorded. After a `503` some may be recorded; repeating the request is safe with the "
        "same `Idempotency-Key`.",
        "parameters": [_ref("parameters", "IdempotencyKey"), *_tracing()],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": _schema("Timestamps"), "example": example},
                "application/x-ndjson": {
                    "schema": {
                        "type": "string",
                        "format": "timestamp-lines",
                        "description": "One JSON string in each line.",
                    },
                    "example": "".join(f"{json.dumps(text)}\n" for text in example),
                },
            },
        },
        "responses": {
            "200": {
                "description": "All are in the log. The ids are in the order of the instants.",
                "headers": _traced(),
                "content": {JSON: {"schema": _schema("Identifiers")}},
            },
            **_errors(413, 415, 422),
        },
    }


def _reading(
    name: str,
    summary: str,
    description: str,
    parameters: list[Any],
    schema: dict[str, Any],
    headers: dict[str, Any] | None = None,
    *errors: int,
    tag: str = "Read",
    media_type: str = JSON,
    not_modified: bool = False,
) -> dict[str, Any]:
    headers = {**(headers or {}), **_traced()}

    def operation(method: str, success: dict[str, Any]) -> dict[str, Any]:
        responses = {"200": {"description": "OK", "headers": headers, **success}, **_errors(*errors)}
        if not_modified:
            responses["304"] = {"description": "The client has the record already.", "headers": headers}
        return {
            "operationId": name if method == "get" else f"{method}{name.removeprefix('get')}",
            "tags": [tag],
            "summary": summary if method == "get" else f"{summary}: only the headers",
            "description": description,
            "parameters": [*parameters, *_tracing()],
            "responses": dict(sorted(responses.items())),
        }

    return {
        "get": operation("get", {"content": {media_type: {"schema": schema}}}),
        "head": operation("head", {}),
    }


def _timestamp() -> dict[str, Any]:
    return {
        "name": "value",
        "in": "path",
        "required": True,
        "description": "The instant to record.",
        "schema": _schema("Timestamp"),
        "example": instants.EXAMPLE,
    }


def _identifier() -> dict[str, Any]:
    return {
        "name": "value",
        "in": "path",
        "required": True,
        "description": "The id of a record.",
        "schema": {"type": "string", "format": "uuid"},
        "example": identifiers.EXAMPLE,
    }


def _parameters() -> dict[str, Any]:
    def parameter(place: str, name: str, description: str, schema: dict[str, Any], example: Any) -> Any:
        return {
            "name": name,
            "in": place,
            "description": description,
            "schema": schema,
            "example": example,
        }

    text = {"type": "string"}
    return {
        "CorrelationId": parameter(
            "header",
            "correlationId",
            "A UUID of any version, which stands in the logs of all services. Without it, one is created.",
            {"type": "string", "format": "uuid"},
            identifiers.EXAMPLE,
        ),
        "Traceparent": parameter(
            "header",
            "traceparent",
            "W3C Trace Context, carried on like the correlationId. A malformed one is dropped.",
            text,
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ),
        "IdempotencyKey": parameter(
            "header",
            "Idempotency-Key",
            "1 to 255 visible ASCII characters. The same key and timestamp give the same id and one record, "
            "however often they are sent.",
            {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
            _IDEMPOTENCY_KEY_EXAMPLE,
        ),
        "Prefer": parameter(
            "header",
            "Prefer",
            "`wait=N`: for how many seconds (0 to 30, more counts as 30) to wait for the record (RFC 7240).",
            text,
            "wait=1",
        ),
        "IfNoneMatch": parameter(
            "header",
            "If-None-Match",
            "The ETag of a record that the client has.",
            text,
            f'"{identifiers.EXAMPLE}"',
        ),
        "From": parameter(
            "query",
            "from",
            "The first instant of the range. By default it has no start.",
            _or_empty(_schema("Timestamp")),
            "2009-09-28T00:00:00Z",
        ),
        "To": parameter(
            "query",
            "to",
            "The first instant after the range, not before `from`. By default it has no end.",
            _or_empty(_schema("Timestamp")),
            "2009-09-29T00:00:00Z",
        ),
        "Limit": parameter(
            "query",
            "limit",
            "How many records a page has at most.",
            _or_empty({"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
            100,
        ),
        "Cursor": parameter(
            "query",
            "cursor",
            "`next` of the page before.",
            _or_empty({"type": "string", "format": "cursor"}),
            _CURSOR_EXAMPLE,
        ),
    }


def _headers() -> dict[str, Any]:
    def header(description: str, **schema: Any) -> dict[str, Any]:
        return {"description": description, "schema": {"type": "string", **schema}}

    return {
        "CorrelationId": {
            **header("The id of the request in the logs of all services.", format="uuid"),
            "required": True,
        },
        "Traceparent": header("The traceparent of the request, if it had one or is traced."),
        "Location": {**header("The path of the new record."), "required": True},
        "ETag": header("The version of the record; there is only one."),
        "CacheControl": header("For how long the answer may be kept, and by whom."),
        "PreferenceApplied": header("The wait that was asked for, 30 s at most."),
        "RetryAfter": {"description": "Try again after so many seconds.", "schema": {"type": "integer"}},
    }


def _schemas() -> dict[str, Any]:
    uuid = {"type": "string", "format": "uuid", "examples": [identifiers.EXAMPLE]}
    timestamp = _schema("Timestamp")

    def thing(description: str, **properties: Any) -> dict[str, Any]:
        return {
            "type": "object",
            "description": description,
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    problem_members = {
        "type": {"type": "string", "format": "uri-reference", "examples": ["about:blank"]},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "The path that was asked for."},
        "correlationId": uuid,
    }
    return {
        "Timestamp": {
            "type": "string",
            "format": "date-time",
            "description": "RFC 3339, section 5.6, to the nanosecond.",
            "examples": [instants.EXAMPLE],
        },
        "Timestamps": {"type": "array", "items": timestamp, "maxItems": 10_000},
        "Identifier": thing("What was recorded.", id=uuid),
        "Identifiers": thing("What was recorded.", ids={"type": "array", "items": uuid}),
        "Record": thing(
            "A recorded instant.",
            id=uuid,
            command_id={**uuid, "description": "The same as id."},
            event_timestamp={"allOf": [timestamp], "description": "The instant, in UTC."},
            created_at={"allOf": [timestamp], "description": "When the log appended it."},
        ),
        "Page": thing(
            "Records of a range.",
            items={"type": "array", "items": _schema("Record")},
            next={"type": ["string", "null"], "description": "The cursor of the next page, or null."},
        ),
        "Status": thing("The state of the service.", status={"type": "string", "enum": ["UP", "READY"]}),
        "Problem": {
            "type": "object",
            "description": "RFC 9457",
            "properties": {
                **problem_members,
                "errors": {
                    "type": "array",
                    "description": "What is wrong with each of several instants (422).",
                    "items": thing(
                        "One of them.", index={"type": "integer", "minimum": 0}, detail={"type": "string"}
                    ),
                },
            },
            "required": [name for name in problem_members if name != "detail"],
        },
    }


def _problem(status: int) -> dict[str, Any]:
    headers = _traced()
    if status in _RETRIED:
        headers["Retry-After"] = _ref("headers", "RetryAfter")
    if status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
        headers["Accept-Encoding"] = {
            "description": "What is accepted in `Content-Encoding`, where that was refused.",
            "schema": {"type": "string"},
        }
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = {
            "required": True,
            "description": "The methods of the path, of both APIs together.",
            "schema": {"type": "string"},
        }
    return {
        "description": _ERRORS[status],
        "headers": headers,
        "content": {problems.MEDIA_TYPE: {"schema": _schema("Problem")}},
    }


def _errors(*statuses: int) -> dict[str, Any]:
    return {str(status): _ref("responses", f"Problem{status}") for status in sorted({*_ANYWHERE, *statuses})}


def _tracing() -> list[Any]:
    return [_ref("parameters", "CorrelationId"), _ref("parameters", "Traceparent")]


def _traced() -> dict[str, Any]:
    return {
        "correlationId": _ref("headers", "CorrelationId"),
        "traceparent": _ref("headers", "Traceparent"),
    }


def _or_empty(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"const": "", "description": "The same as if the parameter were absent."}]}


def _schema(name: str) -> dict[str, str]:
    return _ref("schemas", name)


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}
