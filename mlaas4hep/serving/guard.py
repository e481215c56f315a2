"""What every request passes first: a limit on the size of its body, and the counters of GET /status.

    Starlette(middleware=[Middleware(BodyLimit, limit=1_000_000, counter=Counter())])

What is in a body is for the routes to judge.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass
class Counter:
    """Requests since the server started."""

    gets: int = 0
    posts: int = 0


class BodyLimit:
    """ASGI middleware: a body of more than `limit` bytes is a 413, as soon as the excess arrives."""

    def __init__(self, app: ASGIApp, limit: int, counter: Counter) -> None:
        self._app = app
        self._limit = limit
        self._counter = counter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._counter.gets += scope["method"] == "GET"
            self._counter.posts += scope["method"] == "POST"
            receive = self._limited(receive)
        await self._app(scope, receive, send)

    def _limited(self, receive: Receive) -> Receive:
        arrived = 0

        async def receive_within_limit() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > self._limit:
                raise HTTPException(413, f"the request is larger than {self._limit / 1e6:,g} MB")
            return message

        return receive_within_limit
