"""The page's server: a picture in, the probabilities out, and a gallery. Nothing is kept, and no file is written.

Six addresses and no more: the page's three files, what it shows, the gallery's images, and `POST /predict`. What is
refused is answered with a sentence: `{"error": "..."}`. Memory is bounded: pictures that have arrived whole or in part
hold at most HELD bytes, and one at a time is decoded; others wait. A slow sender holds what it has sent, for SECONDS.
On this machine's own address, host names that are not the server's are refused, and everywhere what a page of another
site sends, so that no other site can reach it through the browser; with another `--host`, any name is taken, and
whoever reaches the machine may ask. A Content-Security-Policy forbids the browser to load anything from elsewhere.
"""

import asyncio
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import anyio
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from torch import Tensor

from lit_cifar.data.image_files import opened
from lit_cifar.data.pictures import data_url, png, to_pixels
from lit_cifar.deploy.demo.cam import activation_map, enlarged
from lit_cifar.errors import UserError
from lit_cifar.evaluation.metrics import percent
from lit_cifar.training.classifier import LitClassifier

LIMIT = 20 * 2**20  # bytes of a picture's file
PIXELS = 50_000_000  # of a picture: 150 MB decoded
HELD = 600 * 2**20  # bytes of all pictures that are arriving or waiting
SCANS = 100  # of a JPEG, each of which is a pass over all its pixels; a camera's has 10
SECONDS = 30  # for a picture to arrive
REQUESTS = 100  # at once
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
NAMED = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
BUSY = "The server is busy; try again in a moment."
SENTENCES = {
    "Not Found": "There is nothing at this address; the page is at /.",
    "Method Not Allowed": "This address does not take that method; the header Allow names those it takes.",
}
HEADERS = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),  # the next server at this address may show other images
]


class Gallery(NamedTuple):
    """Test images, and what the network says of them."""

    title: str
    images: Tensor
    """uint8 `[N, 3, 32, 32]`."""
    labels: Tensor
    """int64 `[N]`."""
    predicted: Tensor
    """int64 `[N]`."""


def make_app(classifier: LitClassifier, gallery: Gallery | None, note: str, hosts: Sequence[str]) -> Starlette:
    """The page of a classifier, to be served by any ASGI server.

    Args:
        classifier: trained.
        gallery: images to choose from; None to leave it out.
        note: a sentence about the gallery that the page shows, or empty.
        hosts: names under which the server may be called; `*` for any.
    """
    computing, held = asyncio.Semaphore(1), 0

    async def about(_: Request) -> Response:
        return JSONResponse(
            {
                "net": type(classifier.net).__name__,
                "recipe": classifier.recipe,
                "classes": classifier.classes,
                "limit": LIMIT,
                "note": note,
                "gallery": gallery
                and {
                    "title": gallery.title,
                    "labels": gallery.labels.tolist(),
                    "predicted": gallery.predicted.tolist(),
                },
            }
        )

    async def image(request: Request) -> Response:
        index = request.path_params["index"]
        if gallery is None or index >= len(gallery.images):
            raise HTTPException(404, "The gallery has no such image; reload the page.")
        return Response(png(gallery.images[index]), media_type="image/png")

    async def predict(request: Request) -> Response:
        nonlocal held
        _check_kind(request.headers)
        content = bytearray()
        try:
            with anyio.fail_after(SECONDS):
                async for chunk in request.stream():
                    content += chunk
                    held += len(chunk)
                    _check_size(len(content))
                    if held > HELD:
                        raise HTTPException(503, BUSY)
            async with computing:
                if await request.is_disconnected():
                    raise ClientDisconnect
                return JSONResponse(await run_in_threadpool(look, classifier, content))
        except TimeoutError as error:
            sentence = f"The picture did not arrive within {SECONDS} seconds; send it again."
            raise HTTPException(408, sentence, {"Connection": "close"}) from error
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        finally:
            held -= len(content)

    return Starlette(
        routes=[
            *(Route(path, _file(*file)) for path, file in FILES.items()),
            Route("/about", about),
            Route("/images/{index:int}.png", image),
            Route("/predict", predict, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={HTTPException: _refuse, UserError: _refuse, Exception: _fail},
    )


class Guard:
    """Refuses what another site sends through a visitor's browser, and more than REQUESTS at once.

    Args:
        app: what answers the others.
        hosts: names under which the server may be called; `*` for any.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app = app
        self.hosts = {name for host in hosts if (name := _name(host))}
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        answering: ASGIApp = self.app
        if "*" not in self.hosts and _name(host) not in self.hosts:
            answering = _error("This server is not to be called by that name; open the address that it printed.", 421)
        elif origin is not None and origin.partition("://")[2].lower() != host.lower():
            answering = _error("Pages of other sites may not ask this server.", 403)
        elif self.running >= REQUESTS:
            answering = _error(BUSY, 503)
        self.running += 1
        try:
            await answering(scope, receive, send)
        finally:
            self.running -= 1


def _name(host: str) -> str | None:
    """Of `name:port`, the name."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _error(sentence: str, status: int, headers: Any = None) -> Response:
    return JSONResponse({"error": sentence}, status, headers)


async def _refuse(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return _error(SENTENCES.get(error.detail, error.detail), error.status_code, error.headers)
    return _error(str(error), 400)


async def _fail(_: Request, __: Exception) -> Response:
    return _error("The server failed at this; its terminal tells why.", 500)


def _file(name: str, kind: str) -> Any:
    content = (Path(__file__).parent / "page" / name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


def _check_kind(headers: Headers) -> None:
    """Refuses what its head tells to be no picture or too large, before a byte of it is read."""
    kind = headers.get("content-type", "image/").lower()
    if not kind.startswith(("image/", "application/octet-stream")):
        raise HTTPException(415, f"What was sent is said to be no picture (Content-Type); send {NAMED} as image/….")
    _check_size(int(headers.get("content-length", 0)))


def _check_size(size: int) -> None:
    if size > LIMIT:
        raise HTTPException(413, f"The file is larger than {LIMIT >> 20} MB; send a smaller picture.")


def look(classifier: LitClassifier, content: bytes | bytearray) -> dict[str, Any]:
    """What the page shows of a picture: the probability of each class, what the network sees, and where it looked.

    Raises:
        UserError: it can't be decoded, or is too large.
    """
    pixels = decode(content)
    probabilities = classifier.predict(pixels)[0]
    if not probabilities.isfinite().all():
        raise UserError("This network computes values that are not numbers, as after a training that diverged.")
    top = int(probabilities.argmax())
    looked = activation_map(classifier, pixels, top)
    if looked is None:
        caption = "No map of where it looked: this network has no convolution"
    else:
        what = "what is clear speaks" if looked.any() else "no place alone speaks"
        caption = f"Where it looked: {what} for {classifier.classes[top]}"
    named = zip(classifier.classes, probabilities.tolist(), strict=True)
    return {
        "classes": [{"name": name, "probability": p, "percent": percent(p)} for name, p in named],
        "caption": caption,
        "picture": data_url(png(enlarged(pixels))),
        "map": None if looked is None else data_url(png(enlarged(pixels, looked))),
    }


def decode(content: bytes | bytearray) -> Tensor:
    """uint8 `[3, 32, 32]` of a picture's file; its size is read and judged before a pixel is decoded.

    Raises:
        UserError: it is no picture, a damaged one, or too large.
    """
    try:
        with opened(io.BytesIO(content), FORMATS) as picture:
            if picture.width * picture.height > PIXELS:
                raise UserError(
                    f"The picture has {picture.width:,} × {picture.height:,} pixels, and more than"
                    f" {PIXELS // 10**6} million are not opened; make it smaller."
                )
            if picture.format in ("JPEG", "MPO") and content.count(b"\xff\xda") > SCANS:
                raise UserError(f"The picture is stored in more than {SCANS} passes; save it anew, as PNG for one.")
            return to_pixels(picture)
    except Image.DecompressionBombError as error:
        raise UserError(
            f"The picture has more than the {PIXELS // 10**6} million pixels that are opened; make it smaller."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"This is no picture that can be read, or a damaged one; send {NAMED}.") from error
