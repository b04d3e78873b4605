"""Requests read into models, and models and errors written as replies, all as JSON.

Every reply that is not 2xx has a Failure as its body.
"""

from __future__ import annotations

from typing import TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler
from loguru import logger
from pydantic import ValidationError

from transship.agentapi.errors import Failure, failure_of, status_of
from transship.agentapi.message import Message
from transship.api.reasons import Reason
from transship.common.errors import InvalidInput, TransshipError

M = TypeVar("M", bound=Message)

UNEXPECTED = Failure(
    reason=Reason.INTERNAL_ERROR,
    message="the agent failed unexpectedly",
    hint="see the agent's log",
)


def json_reply(message: Message, *, status: int = 200) -> web.Response:
    text = message.model_dump_json(by_alias=True, exclude_none=True)
    return web.Response(text=text, status=status, content_type="application/json")


def no_content() -> web.Response:
    return web.Response(status=204)


async def read_body(request: web.Request, model: type[M]) -> M:
    """The body as this model. Raises InvalidInput."""
    return parse(await request.read(), model)


def parse(data: bytes, model: type[M]) -> M:
    """JSON as this model. Raises InvalidInput.

    The message names the first wrong field but not its value, which may come from a Secret.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the body"
        raise InvalidInput(f"reading {model.__name__}: {field}: {first['msg']}") from e


def require_same(field: str, *, in_body: str, in_path: str) -> None:
    """Raise InvalidInput where body and path name different objects."""
    if in_body != in_path:
        raise InvalidInput(f"{field}: the body says {in_body!r}, the path {in_path!r}")


def query_number(request: web.Request, name: str, *, least: int) -> int:
    """A required number of the query string. Raises InvalidInput."""
    text = request.query.get(name, "")
    if not text.isdigit() or int(text) < least:
        raise InvalidInput(f"?{name}=: must be a number of at least {least}, not {text!r}")
    return int(text)


@web.middleware
async def errors_to_failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Reply to a request whose handler raised with a Failure that says what is wrong."""
    try:
        return await handler(request)
    except TransshipError as e:
        return json_reply(failure_of(e), status=status_of(e))
    except web.HTTPException as e:
        reason = Reason.NOT_FOUND if e.status == 404 else Reason.INVALID_INPUT
        message = f"{request.method} {request.path}: {e.reason}"
        return json_reply(Failure(reason=reason, message=message), status=e.status)
    except Exception:
        logger.bind(method=request.method, path=request.path).exception("request failed")
        return json_reply(UNEXPECTED, status=500)
