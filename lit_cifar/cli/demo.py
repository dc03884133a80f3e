"""`python -m lit_cifar demo`: serves a page on which to try a trained network.

Starlette and uvicorn serve it, and captum computes where the network looked: 9 packages. Gradio 6.31 would be 53 with
340 MB; its page needs inline scripts, which a strict Content-Security-Policy forbids, and axe finds faults in it.
"""

from ipaddress import ip_address
from pathlib import Path

from lit_cifar.cli.parser import Parser, add_checkpoint_arguments
from lit_cifar.cli.start import load
from lit_cifar.errors import UsageError


def main(argv: list[str]) -> None:
    """Serves the page until Ctrl-C."""
    parser = Parser(prog="python -m lit_cifar demo", description="Serve a page on which to try a trained network.")
    add_checkpoint_arguments(parser)
    parser.add_argument("--data.root", type=Path, default=Path("data"), help="Folder of the gallery's test images.")
    parser.add_argument("--host", type=str, default="127.0.0.1", help="Address to listen on; 0.0.0.0 for all.")
    parser.add_argument("--port", type=int, default=7860, help="Port to listen on; 0 for any free one.")
    config = parser.parse_args(argv)
    try:
        import captum.attr  # noqa: F401
        import uvicorn

        from lit_cifar.deploy.demo.gallery import describe_run, make_gallery
        from lit_cifar.deploy.demo.server import LOCAL_HOSTS, listen, make_app, serving
    except ImportError as error:
        raise UsageError("package-missing", f"demo needs the package {error.name}: pip install -e '.[demo]'") from error

    with listen(config.host, config.port) as listener:
        address, port, *_ = listener.getsockname()
        is_local = ip_address(address).is_loopback  # only this machine reaches it
        checkpoint, classifier = load(config)
        gallery, note = make_gallery(classifier, config.data.root)
        hosts = [*LOCAL_HOSTS, config.host] if is_local else ["*"]
        server = uvicorn.Server(serving(make_app(classifier, describe_run(checkpoint), gallery, note, hosts)))
        shown = f"[{config.host}]" if ":" in config.host else config.host
        print(f"Open http://{shown}:{port} to try {checkpoint.path}. Stop with Ctrl-C.", flush=True)
        if not is_local:
            print("Anyone who can reach this machine can send it pictures and see the test images.", flush=True)
        server.run(sockets=[listener])
