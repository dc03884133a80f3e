"""The server of the demo page: a picture in, probabilities out, and a gallery. It keeps nothing and writes no file.

It answers errors with a sentence, `{"error": "..."}`. Memory is bounded: pictures that are arriving or waiting hold at
most HELD bytes, and one at a time is decoded; uvicorn limits the number of connections. No other site can reach the
server through the browser: requests sent by pages of other sites are refused, and so are other host names, unless
`--host` is an address that other machines reach. A Content-Security-Policy forbids the page to load anything from
elsewhere.
"""

import asyncio
import socket
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lit_cifar.data.pictures import data_url, png
from lit_cifar.deploy.demo.gallery import Gallery
from lit_cifar.deploy.demo.looking import legend, look
from lit_cifar.deploy.demo.reading import MIME_TYPES, NAMED, read, shown_name
from lit_cifar.errors import UsageError, UserError, reason
from lit_cifar.training.classifier import LitClassifier

LIMIT = 20 * 2**20  # bytes of a picture's file
HELD = 600 * 2**20  # bytes of all pictures that are arriving or waiting
SECONDS = 30  # for a picture to arrive
CONNECTIONS = 200  # at once, idle ones included; uvicorn answers more with status 503
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
BUSY = "The server is busy. Try again in a moment."
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # the next server at this address may show other images
}


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens, or raises UsageError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((address[0], port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:  # UnicodeError for a name such as a..b
        why = getattr(error, "strerror", None) or reason(error)
        sentence = f"demo can't use --host {host} --port {port} ({why}); use others, or --port 0 for any free port"
        raise UsageError("address-unavailable", sentence) from error


def serving(app: Starlette) -> uvicorn.Config:
    """Returns how uvicorn serves the page."""
    return uvicorn.Config(
        app,
        http="h11",  # the only one whose request heads are limited
        ws="none",
        lifespan="off",
        headers=[*HEADERS.items()],
        server_header=False,
        log_config=None,
        log_level="critical",  # what goes wrong in the app is printed by `_fail`
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,  # Ctrl-C waits no longer for pictures that are arriving
        h11_max_incomplete_event_size=2**16,  # bytes of a request's head
    )


def make_app(
    classifier: LitClassifier, run: Mapping[str, str], gallery: Gallery | None, note: str, hosts: Sequence[str]
) -> Starlette:
    """Returns the page of a classifier and its run, for requests to these host names (or `*`)."""
    computing, held = asyncio.Semaphore(1), 0
    about = {
        **run,
        "size": classifier.image_size,
        "classes": classifier.classes,
        "limit": LIMIT,
        "accept": MIME_TYPES,
        "legend": data_url(png(legend())),
        "note": note,
        "gallery": gallery and gallery.described(classifier.classes),
    }

    async def image(request: Request) -> Response:
        index = request.path_params["index"]
        if gallery is None or index >= len(gallery.images):
            raise HTTPException(404, "The gallery has no such image. Reload the page.")
        return Response(png(gallery.images[index]), media_type="image/png")

    def answer(content: bytearray, name: str, label: int | None, truth: int | None) -> dict[str, Any]:
        return look(classifier, read(content, name, classifier.scaling), label, truth)

    async def predict(request: Request) -> Response:
        nonlocal held
        name = shown_name(request.query_params.get("name", ""))
        label, truth = (_class(request, key, len(classifier.classes)) for key in ("class", "truth"))
        kind = request.headers.get("content-type", "image/").lower()
        if not kind.startswith(("image/", "application/octet-stream")):
            raise HTTPException(415, f"{name} is not an image. Use {NAMED}.")
        _check_size(int(request.headers.get("content-length", 0)), name)
        content = bytearray()
        try:
            with anyio.fail_after(SECONDS):
                async for chunk in request.stream():
                    content += chunk
                    held += len(chunk)
                    _check_size(len(content), name)
                    if held > HELD:
                        raise HTTPException(503, BUSY)
            async with computing:
                if await request.is_disconnected():
                    raise ClientDisconnect
                return JSONResponse(await run_in_threadpool(answer, content, name, label, truth))
        except TimeoutError:
            return _error(f"No whole picture in {SECONDS} seconds. Send it again.", 408, {"Connection": "close"})
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        finally:
            held -= len(content)

    return Starlette(
        routes=[
            _page("/", "index.html", "text/html"),
            _page("/page.css", "page.css", "text/css"),
            *(_page(f"/{name}", name, "text/javascript") for name in ("page.js", "basics.js", "gallery.js")),
            Route("/about", JSONResponse(about), methods=["GET"]),
            Route("/images/{index:int}.png", image),
            Route("/predict", predict, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={HTTPException: _refuse, UserError: _refuse, Exception: _fail},
    )


class Guard:
    """Refuses what another site sends through a visitor's browser."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app = app
        self.hosts = {name for host in hosts if (name := _name(host))}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        answering: ASGIApp = self.app
        if "*" not in self.hosts and _name(host) not in self.hosts:
            answering = _error("This server has another name. Open the address that it printed.", 421)
        elif origin is not None and origin.partition("://")[2].lower() != host.lower():
            answering = _error("Pages of other sites may not use this server.", 403)
        await answering(scope, receive, send)


def _name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _error(sentence: str, status: int, headers: Any = None, code: str = "") -> Response:
    return JSONResponse({"error": sentence, "code": code}, status, headers)


async def _refuse(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return _error(error.detail, error.status_code, error.headers)
    return _error(str(error), 400, code=getattr(error, "code", ""))


async def _fail(_: Request, error: Exception) -> Response:
    traceback.print_exception(error)
    return _error("The server failed. Its terminal shows why.", 500)


def _page(path: str, name: str, kind: str) -> Route:
    content = (Path(__file__).parent / "page" / name).read_bytes()
    return Route(path, Response(content, media_type=kind), methods=["GET"])


def _check_size(size: int, name: str) -> None:
    if size > LIMIT:
        raise HTTPException(413, f"{name} is larger than {LIMIT >> 20} MB. Send a smaller version.")


def _class(request: Request, key: str, classes: int) -> int | None:
    """Returns the label in a request's query, if there is one."""
    value = request.query_params.get(key)
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) < 10 and int(value) < classes):
        raise HTTPException(400, f"The network has no such class ({key}). Reload the page.")
    return int(value)
