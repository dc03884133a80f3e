"""The demo page served in this process, and pictures and checkpoints for it."""

import http.client
import io
import socket
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from PIL import Image
from torch import nn

from lit_cifar import LitClassifier
from lit_cifar.data.image_set import CIFAR10_CLASSES
from lit_cifar.deploy.demo.gallery import Gallery
from lit_cifar.deploy.demo.server import make_app
from lit_cifar.deploy.demo.server import serving as configured
from lit_cifar.nets.tutorial import Net
from lit_cifar.runs.card import RunCard


def classifier_of(net: nn.Module) -> LitClassifier:
    classifier = LitClassifier(net).eval()
    classifier.classes, classifier.mean, classifier.std = CIFAR10_CLASSES, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    return classifier


def picture(side: int = 200, kind: str = "PNG") -> bytes:
    """A photograph's stand-in: a disc on a gradient."""
    y, x = np.mgrid[:side, :side] / side
    pixels = np.stack([x, y, (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.1], 2)
    file = io.BytesIO()
    Image.fromarray((pixels * 255).astype(np.uint8)).save(file, kind)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, in 100 bytes."""
    ihdr = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    idat = b"IDAT" + zlib.compress(bytes(100))
    chunks = [(len(c) - 4).to_bytes(4, "big") + c + zlib.crc32(c).to_bytes(4, "big") for c in (ihdr, idat, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def page_of(net: nn.Module, gallery: Gallery | None = None) -> Any:
    """The application that serves a page."""
    run = dict.fromkeys(("run", "net", "data", "accuracy"), "some")
    return make_app(classifier_of(net), run, gallery, "", ["127.0.0.1"])


@contextmanager
def serving(app: Any) -> Iterator[int]:
    """The port at which a thread of this process serves `app`."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(configured(app))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join()


def ask(
    port: int, path: str, content: bytes | None = None, host: str = "127.0.0.1", origin: str | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Host": host} | ({"Origin": origin} if origin is not None else {})
    connection.request("GET" if content is None else "POST", path, content, headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def save_checkpoint(path: Path, dataset: str = "drawn", history: Any = None, **card: Any) -> Path:
    """What `fit` would have left of an untrained network."""
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "recipe": "tutorial",
        "net": {"class_path": "lit_cifar.nets.tutorial.Net", "init_args": {}},
        "classes": list(CIFAR10_CLASSES),
        "dataset": dataset,
        "images": 0,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "val_size": 0,
        "batch_size": 4,
        "seed": 0,
        "augmentation": {},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {}},
        "lr_scheduler": None,
        "loss": {"class_path": "torch.nn.functional.cross_entropy", "init_args": {}},
        "slice_size": 0,
        "sides": [],
        "test_time_augmentation": "none",
        "confidence_threshold": 1.0,
    }
    kept = {"card": RunCard.from_dict(values | card).as_dict(), "history": history or {}}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": classifier_of(Net()).state_dict(), "lit_cifar": kept}, path)
    return path
