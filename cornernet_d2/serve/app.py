"""The service as a web application: FastAPI around :class:`.service.Service`."""

import asyncio
import contextlib
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

from .batching import Closed, Full
from .metrics import CONTENT_TYPE
from .service import Service
from .uploads import FORMATS, Refused

logger = logging.getLogger(__name__)

HINT = "`cornernet serve` needs FastAPI, orjson and uvicorn: pip install 'cornernet_d2[serve]'"
BODY = {
    "requestBody": {
        "required": True,
        "description": f"The bytes of an image file: {', '.join(FORMATS)}.",
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def create_app(service: Service, min_score: float = 0.05) -> "fastapi.FastAPI":  # noqa: F821
    """The application with ``POST /predict``, ``GET /health`` and ``GET /metrics``.

    Closes the service when it is shut down.

    Args:
        service: what answers.
        min_score: of the detections in answers, where a request does not say.

    Raises:
        ValueError: FastAPI or orjson is not installed.
    """
    try:
        import orjson
        from anyio import CapacityLimiter
        from fastapi import FastAPI, Query, Request, Response
        from fastapi.responses import JSONResponse, PlainTextResponse
    except ImportError as error:
        raise ValueError(HINT) from error

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(title="CornerNet", lifespan=lifespan)
    readers = CapacityLimiter(service.readers)

    @app.post("/predict", openapi_extra=BODY)
    async def predict(
        request: Request,
        score: float = Query(min_score, ge=0, le=1, description="lowest score"),
        top: int | None = Query(None, ge=1, description="most detections"),
    ) -> Response:
        """Objects in an image: boxes x, y, width, height in its pixels, best score first."""
        start = time.perf_counter()
        answer = Answer(service, request, readers)
        status, content = await answer.get(score, top)
        service.metrics.count_request(status, time.perf_counter() - start)
        headers = {"Retry-After": "1"} if status == 503 else {}
        return Response(orjson.dumps(content), status, headers, "application/json")

    @app.get("/health")
    async def health() -> JSONResponse:
        """Whether requests are taken, and the classes."""
        alive = service.batcher.alive
        state = {"status": "ok" if alive else "stopping", "classes": service.predictor.class_names}
        return JSONResponse(state, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        """For Prometheus."""
        return PlainTextResponse(service.metrics.text(), media_type=CONTENT_TYPE)

    return app


class Answer:
    """One request of /predict.

    Args:
        readers: anyio's limiter of the threads that decode.
    """

    def __init__(
        self,
        service: Service,
        request: "fastapi.Request",  # noqa: F821
        readers: "anyio.CapacityLimiter",  # noqa: F821
    ) -> None:
        self.service, self.request, self.readers = service, request, readers

    async def get(self, score: float, top: int | None) -> tuple[int, dict[str, Any]]:
        """HTTP's status, and the content: of an error its reason."""
        try:
            with self.service.batcher.place() as place:
                return 200, await self._detect(place, score, top)
        except Refused as error:
            return error.status, {"error": str(error)}
        except (Full, Closed) as error:
            return 503, {"error": str(error)}
        except MemoryError as error:
            return 413, {"error": f"does not fit into memory: {error}"}
        except Exception as error:
            if type(error).__name__ == "ClientDisconnect":
                return 499, {"error": "the client went away"}  # nobody reads it; for the metrics
            logger.exception("A request failed")
            return 500, {"error": f"{type(error).__name__}, see the server's log"}

    async def _detect(self, place: Any, score: float, top: int | None) -> dict[str, Any]:
        from anyio.to_thread import run_sync

        timeout = self.service.limits.timeout
        try:
            data = await asyncio.wait_for(self._body(), timeout)
        except asyncio.TimeoutError as error:
            raise Refused(408, f"the body was not there within {timeout:g} seconds") from error
        if self.service.is_quick(data):
            x = self.service.read(data)
        else:
            x = await run_sync(self.service.read, data, limiter=self.readers)
        future = place.submit(x)
        try:
            found = await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except asyncio.TimeoutError as error:
            raise Refused(504, f"no answer within {timeout:g} seconds") from error
        return self.service.answer(x, found, score, top)

    async def _body(self) -> bytes:
        """The body. What is too large is received to its end, as clients read no answer before,
        and thrown away."""
        limit, parts, size = self.service.limits.max_bytes, [], 0
        async for part in self.request.stream():
            size += len(part)
            if size <= limit:
                parts.append(part)
            else:
                parts.clear()
        if size > limit:
            raise self.service.too_large()
        return b"".join(parts)


def serve(app: Any, listener: socket.socket, timeout: float) -> None:
    """Runs the application until SIGINT or SIGTERM; what is being answered is finished first.

    Args:
        app: an ASGI application.
        listener: bound.
        timeout: seconds for finishing.

    Raises:
        ValueError: uvicorn is not installed.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise ValueError(HINT) from error
    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=max(1, round(timeout))
    )
    # When it has finished, uvicorn raises the signal that ended it again: that is no failure.
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, lambda *_: None) for number in numbers]
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        for number, handler in zip(numbers, handlers):
            signal.signal(number, handler)
