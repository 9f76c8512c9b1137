"""The application that answers HTTP, and the server that runs it."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import APIRouter, FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from backend.engine.engine import Engine
from backend.http.body_limit import BodyLimit
from backend.http.embeddings import embeddings_router, sdapi_embeddings_router
from backend.http.errors import add_error_answers
from backend.http.files import files_router
from backend.http.guard import Guard
from backend.http.hypernetworks import hypernetworks_router
from backend.http.job_feed import JobFeed
from backend.http.jobs import jobs_router
from backend.http.loras import loras_router
from backend.http.memory import memory_router
from backend.http.merging import merging_router
from backend.http.models import models_router
from backend.http.pictures import pictures_router
from backend.http.plots import plots_router
from backend.http.port import open_port
from backend.http.recipes import recipes_router
from backend.http.sdapi.extras import extras_router
from backend.http.sdapi.img2img import img2img_router
from backend.http.sdapi.listings import listings_router
from backend.http.sdapi.loras import sdapi_loras_router
from backend.http.sdapi.maintenance import maintenance_router
from backend.http.sdapi.options import options_router
from backend.http.sdapi.png_info import png_info_router
from backend.http.sdapi.progress import progress_router
from backend.http.sdapi.txt2img import txt2img_router
from backend.http.security import Security
from backend.http.upscaling import upscaling_router

_SECONDS_TO_STOP = 5


class GuardedApp(FastAPI):
    """An application whose guard stands before everything: what is mounted later, and what answers errors."""

    def __init__(self, security: Security, feed: JobFeed) -> None:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
            with feed.running():
                yield

        super().__init__(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
        self.feed = feed
        self._security = security

    def build_middleware_stack(self) -> ASGIApp:
        return Guard(super().build_middleware_stack(), self._security)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How the server is reached. subpath: where a proxy serves it, "/emulsion" or "". Both TLS files, or neither."""

    subpath: str = ""
    tls_key: Path | None = None
    tls_certificate: Path | None = None


def build_app(engine: Engine, security: Security, *, folders: Mapping[str, Path] | None = None) -> GuardedApp:
    """The interfaces, pictures and events. A page can be mounted afterwards.

    folders: what else is served, file by file, by the path it is served at.
    """
    feed = JobFeed(engine)
    app = GuardedApp(security, feed)
    app.add_middleware(BodyLimit)
    add_error_answers(app)
    app.include_router(jobs_router(engine, feed))
    app.include_router(models_router(engine))
    app.include_router(memory_router(engine))
    app.include_router(merging_router(engine))
    app.include_router(recipes_router(engine))
    app.include_router(loras_router(engine))
    app.include_router(embeddings_router(engine))
    app.include_router(hypernetworks_router(engine))
    app.include_router(plots_router(engine))
    app.include_router(pictures_router(engine))
    app.include_router(upscaling_router(engine))
    app.include_router(files_router(engine))
    app.include_router(_a1111_router(engine, security, feed))
    for path, folder in (folders or {}).items():
        app.mount(path, StaticFiles(directory=folder))
    return app


def serve(
    app: GuardedApp,
    security: Security,
    on_ready: Callable[[str], None],
    *,
    serving: Serving | None = None,
    port: socket.socket | None = None,
) -> None:
    """Run until the program is asked to stop, by SIGINT or SIGTERM. Open connections have five seconds to end.

    on_ready: called with the address, token included, once the server answers.
    port: from `open_port`, when it was opened before. Raises ServerError when it cannot be.
    """
    with _stopping_at_signals():
        Server(app, security, serving or Serving(), port or open_port(security.host, security.port)).run(on_ready)


class Server:
    """A server on an open port. `serve` is for programs; tests run this in a thread."""

    def __init__(self, app: GuardedApp, security: Security, serving: Serving, port: socket.socket) -> None:
        self._port = port
        scheme = "https" if serving.tls_certificate else "http"
        self.url = security.url(port=port.getsockname()[1], scheme=scheme, subpath=serving.subpath)
        config = uvicorn.Config(
            app,
            lifespan="on",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            root_path=serving.subpath,
            ssl_keyfile=serving.tls_key,
            ssl_certfile=serving.tls_certificate,
            timeout_graceful_shutdown=_SECONDS_TO_STOP,
        )
        self._uvicorn = _Uvicorn(config, app.feed.close)

    def run(self, on_ready: Callable[[str], None]) -> None:
        """Serve until `stop` is called or a signal arrives."""
        self._uvicorn.on_start = lambda: on_ready(self.url)
        with self._port:
            self._uvicorn.run(sockets=[self._port])

    def stop(self) -> None:
        """From any thread."""
        self._uvicorn.should_exit = True


class _Uvicorn(uvicorn.Server):
    """uvicorn that tells when it answers, and ends event streams before it waits for connections to end."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self.on_start: Callable[[], None] = lambda: None
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self.on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        await super().shutdown(sockets=sockets)


def _a1111_router(engine: Engine, security: Security, feed: JobFeed) -> APIRouter:
    router = APIRouter(prefix="/sdapi/v1")
    router.include_router(txt2img_router(engine, feed))
    router.include_router(extras_router(engine, feed))
    router.include_router(img2img_router(engine, feed))
    router.include_router(progress_router(engine))
    router.include_router(options_router(engine))
    router.include_router(listings_router(engine))
    router.include_router(sdapi_embeddings_router(engine))
    router.include_router(sdapi_loras_router(engine))
    router.include_router(maintenance_router(engine, security))
    router.include_router(png_info_router())
    return router


@contextmanager
def _stopping_at_signals() -> Generator[None, None, None]:
    """uvicorn raises the signal that stopped it once more, which must not end the program before it has cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
