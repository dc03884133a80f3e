"""`demo` on the command line: which network and images it serves, and where; and what it refuses."""

import json
import os
import re
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from conftest import Cli
from running import start
from serving import ask, save_checkpoint, serving

from lit_cifar import LitClassifier
from lit_cifar.data.synthetic import draw
from lit_cifar.deploy.demo.gallery import describe_run, make_gallery
from lit_cifar.runs.checkpoint import read_checkpoint


def test_the_gallery_is_drawn_by_lot_from_the_test_images_and_predicted(tmp_path: Path) -> None:
    classifier = LitClassifier.load_from_checkpoint(save_checkpoint(tmp_path / "best.ckpt", "cifar10"))
    gallery, note = make_gallery(classifier, tmp_path / os.fsdecode(b"\xff"))  # a name that is not UTF-8
    assert gallery is not None
    assert "synthetic" in note and f"{tmp_path.name}{os.sep}?" in note
    assert note.isprintable()
    test = draw()[1]
    places = {image.numpy().tobytes(): i for i, image in enumerate(test.images)}
    chosen = torch.tensor([places[image.numpy().tobytes()] for image in gallery.images])
    assert len(set(chosen.tolist())) == 1000 < len(test.labels)
    assert chosen.tolist() != sorted(chosen.tolist())
    assert torch.equal(gallery.labels, test.labels[chosen])
    assert len(set(gallery.labels.tolist())) == 10
    probabilities = classifier.predict(test.images[chosen])
    assert torch.equal(gallery.predicted, probabilities.argmax(1))
    assert torch.equal(gallery.probability, probabilities.amax(1))


def test_the_header_says_run_data_and_the_accuracy_that_belongs_to_the_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "version_3"
    history = {"trained": {"epochs": 2.0, "steps": 20}, "validated": [7, 30, 40]}
    path = save_checkpoint(folder / "checkpoints" / "best.ckpt", "cifar100", history, labels="coarse", train_size=4500)
    about = describe_run(read_checkpoint(path))
    assert about["run"] == "mine/version_3, best.ckpt after 2 epochs"
    assert (about["net"], about["data"]) == ("Net", "CIFAR-100 (coarse labels): 10 classes, 4,500 training images")
    assert about["accuracy"].startswith("75.0 % of 40 validation images")

    report: dict[str, Any] = {"steps": 30, "train_seconds": 1, "epochs": 3, "seed": 1, "test_accuracy": 0.5}
    report |= {"dataset": "cifar100", "net": "a.Net", "test_accuracy_interval": [0.4, 0.6], "checkpoint_step": 20}

    def accuracy(**changed: Any) -> str:
        (folder / "report.json").write_text(json.dumps(report | changed))
        return describe_run(read_checkpoint(path))["accuracy"]

    assert accuracy() == "50.0 % of the test images (95 % interval: 40.0–60.0)"
    for changed in ({"checkpoint_step": 30}, {"test_accuracy": "<b>"}, {"test_accuracy": 7}):
        assert accuracy(**changed).startswith("75.0 %"), changed
    assert accuracy(checkpoint="checkpoints/last.ckpt").startswith("75.0 %")
    assert accuracy(checkpoint="checkpoints/best.ckpt", test_accuracy_interval="x") == "50.0 % of the test images"
    del report["checkpoint_step"]
    assert accuracy().startswith("50.0 %")
    (folder / "run.json").touch()
    assert accuracy().startswith("75.0 %")
    (folder / "report.json").write_text("[" * 100_000)
    assert describe_run(read_checkpoint(path))["accuracy"].startswith("75.0 %")
    (tmp_path / "report.json").write_text(json.dumps(report))  # beside no run
    other = save_checkpoint(tmp_path / "b" / "a.ckpt", history={"trained": {"epochs": "x"}})
    bare = describe_run(read_checkpoint(other))
    assert (bare["run"], bare["accuracy"]) == ("tutorial, a.ckpt", "not measured")
    root = describe_run(replace(read_checkpoint(other), path=Path(tmp_path.anchor, "a.ckpt")))
    assert root == bare


@pytest.mark.parametrize(
    ("words", "error", "name"),
    [
        (["--port=65536"], "address-unavailable", "--port 65536"),
        (["--port=-1"], "address-unavailable", "--port -1"),
        (["--host=a..b"], "address-unavailable", "--host a..b"),
        (["--host=no.such.host.invalid"], "address-unavailable", "--host no.such.host.invalid"),
        (["--ckpt_path=missing.ckpt"], "checkpoint-missing", "--ckpt_path missing.ckpt"),
        ([], "checkpoint-missing", "best.ckpt"),
        (["--prot=1"], "flag-unknown", "--port"),
    ],
)
def test_a_mistake_gives_one_sentence(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], error: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("demo", *([] if any("port" in word for word in words) else ["--port=0"]), *words)
    assert result.failed(2, error, name)
    assert result.out == ""


def test_a_port_in_use_is_refused(cli: Cli, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = cli("demo", f"--port={port}", "--ckpt_path", save_checkpoint(tmp_path / "best.ckpt"))
    assert result.failed(2, "address-unavailable", f"--port {port}", "Address already in use")


def test_a_network_that_this_version_lacks_is_refused(cli: Cli, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "best.ckpt", net={"class_path": "lit_cifar.nets.later.Net", "init_args": {}})
    assert cli("demo", "--port=0", "--ckpt_path", path).failed(2, "network-unknown", "lit_cifar.nets.later.Net")


def test_a_network_of_your_own_is_served_from_runs_that_lie_elsewhere(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "lightning_logs" / "mine" / "version_0" / "checkpoints" / "best.ckpt"
    save_checkpoint(run, net={"class_path": "mine_demo.Net", "init_args": {}})
    words = ("demo", "--port=0", f"--trainer.default_root_dir={tmp_path}")
    assert cli(*words).failed(2, "network-untrusted", "--model.net mine_demo.Net")
    assert cli(*words, "--model.net=mine_demo.Net").failed(2, "network-unknown", "--model.net mine_demo.Net")
    (tmp_path / "mine_demo.py").write_text("from lit_cifar.nets.tutorial import Net")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: sockets[0].close())
    result = cli(*words, "--model.net=mine_demo.Net")
    assert result.code == 0, result.err
    assert str(run) in result.out


@pytest.mark.parametrize("package", ["captum.attr", "uvicorn"])
def test_a_missing_package_is_named_with_how_to_install_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    result = cli("demo", "--port=0")
    assert result.failed(2, "package-missing", package, "pip install -e '.[demo]'")


def test_a_host_that_others_reach_is_announced_and_images_of_other_classes_are_not_shown(
    cli: Cli, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apps: list[Any] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: apps.append((self.config.app, *sockets)))
    path = save_checkpoint(tmp_path / "best.ckpt", "folder")
    result = cli("demo", "--host=0.0.0.0", "--port=0", "--data.root", pictures, "--ckpt_path", path)
    monkeypatch.undo()
    assert result.code == 0, result.err
    assert "Anyone" in result.out
    ((app, listener),) = apps
    listener.close()
    with serving(app) as port:
        about = json.loads(ask(port, "/about", host="some.name.of.mine")[1])
        assert ask(port, "/images/0.png")[0] == 404
    assert about["gallery"] is None
    assert about["note"].startswith("No gallery") and str(pictures) in about["note"]


@pytest.mark.slow
def test_the_newest_best_checkpoint_of_all_recipes_is_served_until_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(Path("lightning_logs/first/version_3/checkpoints/best.ckpt"))
    newest = save_checkpoint(Path("lightning_logs/second/version_0/checkpoints/best.ckpt"), "folder")
    process = start("demo", "--port=0", "--data.root", tmp_path / "none")
    assert process.stdout is not None
    line = process.stdout.readline()
    (port,) = re.findall(rf"^Open http://127\.0\.0\.1:(\d+) to try {newest}\. Stop with Ctrl-C\.$", line)
    status, body = ask(int(port), "/about")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (0, 130)
    assert "Traceback" not in out + err
    about = json.loads(body)
    assert (status, len(about["gallery"]["labels"])) == (200, 1000)
    assert str(tmp_path / "none") in about["note"] and "synthetic" in about["note"]
    assert not (tmp_path / "none").exists()
