"""`python -m lit_cifar demo`: a page where one drops a picture and sees what the network makes of it.

Starlette and uvicorn serve it, captum computes where the network looked: 7 + 2 packages. Gradio would be 52, hold
Pillow back, decode pictures before their size is judged, and fetch any address that a visitor names.
"""

import os
import socket
from ipaddress import ip_address
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from lit_cifar.cli.parser import Parser
from lit_cifar.data.image_set import ImageSet
from lit_cifar.data.sources import Images, holds_images, open_images
from lit_cifar.errors import UsageError
from lit_cifar.runs.checkpoint import find_checkpoint
from lit_cifar.runs.network import own_net
from lit_cifar.training.classifier import LitClassifier

SHOWN = 1000  # test images in the gallery, drawn by lot from all of them


def main(argv: list[str]) -> None:
    """Serves the page until Ctrl-C."""
    parser = Parser(prog="python -m lit_cifar demo", description="Serve a page on which to try a trained network.")
    parser.add_argument("--ckpt_path", type=str, help="Checkpoint; by default the newest best.ckpt of all runs here.")
    parser.add_argument("--model.net", type=str, help="Class path of your own network, where the checkpoint is of one.")
    parser.add_argument("--data.root", type=str, default="data", help="Folder with the test images of the gallery.")
    parser.add_argument("--host", type=str, default="127.0.0.1", help="Address to listen at: 0.0.0.0 for all.")
    parser.add_argument("--port", type=int, default=7860, help="Port to listen at; 0 for any that is free.")
    parser.add_argument(
        "--trainer.default_root_dir", type=Path, default=Path(), help="Folder in which lightning_logs lies."
    )
    config = parser.parse_args(argv)
    try:
        import captum.attr  # noqa: F401
        import uvicorn

        from lit_cifar.deploy.demo.connections import Connection, Server
        from lit_cifar.deploy.demo.server import HEADERS, Gallery, make_app
    except ImportError as error:
        raise UsageError(f"demo needs the package {error.name}: pip install -e '.[demo]'") from error

    listener = _listen(config.host, config.port)
    checkpoint = find_checkpoint(config.ckpt_path, config.trainer.default_root_dir)
    path = checkpoint.path
    net = config.model.net and own_net(config.model.net, checkpoint)
    classifier = LitClassifier.load_from_checkpoint(checkpoint, net)
    images, note = _test_images(Path(config.data.root), checkpoint.card.dataset == "drawn", classifier.classes)
    gallery = None
    if images is not None:
        test = images.test
        chosen = torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(0))[:SHOWN]
        title = (
            f"{len(chosen):,} of {len(test.labels):,} test images" if len(chosen) < len(test.labels) else "Test images"
        )
        gallery = Gallery(title, test.images[chosen], test.labels[chosen], _predicted(classifier, test, chosen))

    local = _is_loopback(listener)
    app = make_app(classifier, gallery, note, ["127.0.0.1", "localhost", "[::1]", config.host] if local else ["*"])
    server = Server(
        uvicorn.Config(
            app,
            http=Connection,
            headers=HEADERS,
            server_header=False,
            log_level="error",
            lifespan="off",
            ws="none",
        )
    )
    shown = f"[{config.host}]" if ":" in config.host else config.host
    print(f"Open http://{shown}:{listener.getsockname()[1]} to try {path}; Ctrl-C ends it", flush=True)
    if not local:
        print("Anyone who reaches this machine can send it pictures and see the test images", flush=True)
    server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port} must be between 0 and 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (socket.gaierror, UnicodeError) as error:  # the latter of a name such as a..b
        raise UsageError(f"--host {host} is no address of this machine; use 127.0.0.1, or 0.0.0.0 for all") from error
    except OSError as error:
        raise UsageError(
            f"--host {host} --port {port} can't be listened at ({os.strerror(error.errno or 0)}); choose another, or"
            " --port 0 for any that is free"
        ) from error


def _is_loopback(listener: socket.socket) -> bool:
    return ip_address(listener.getsockname()[0]).is_loopback


def _test_images(root: Path, drawn: bool, classes: tuple[str, ...]) -> tuple[Images | None, str]:
    """The images of the gallery, which nothing is downloaded for, and what the page says of them."""
    there = holds_images(root)
    images = open_images(root, "real" if there and not drawn else "drawn")
    if images.test.classes != classes:
        which = f"in {root}" if there and not drawn else "that can be drawn"
        return None, f"No gallery: the test images {which} are of other classes than the network's."
    if drawn:
        return images, "The gallery shows drawn stand-ins, on which this network was trained."
    if not there:
        return images, f"There are no test images in {root}, so the gallery shows drawn stand-ins for them."
    return images, ""


def _predicted(classifier: LitClassifier, test: ImageSet, chosen: torch.Tensor) -> torch.Tensor:
    """int64 `[n]`, the predicted classes of the chosen images."""
    console = Console(stderr=True)
    parts = chosen.split(100)
    bar = track(parts, "Looking at the test images", console=console, transient=True, disable=not console.is_terminal)
    return torch.cat([classifier.predict(test.images[part]).argmax(1) for part in bar])
