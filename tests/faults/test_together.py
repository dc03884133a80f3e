"""Several processes at once on the same folders, and some of them killed: each thing is made once, by one of them."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import Cli, paint_pictures
from published import FOLDER, NAMES, batch, pickled, tar, write_batches
from running import DRAWN, RUN, last_checkpoint, start

from lit_cifar.runs.folder import RunLogger

FILES = {name: pickled(batch(number)) for number, name in enumerate(NAMES)}
PREPARED = f"""
import os, random, shutil, sys, tarfile, time
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
import pytest, torch
from published import *
from lit_cifar.cli.commands import run
from lit_cifar.data import image_folder, sources
archive = Path(sys.argv[1])
files = {{name: pickled(batch(number)) for number, name in enumerate(NAMES)}}
publish(pytest.MonkeyPatch(), files, archive.read_bytes())

def telling(name, function):  # for the test to count
    def called(*words, **options):
        print(name, flush=True)
        return function(*words, **options)
    return called

tarfile.open = telling("unpacks", tarfile.open)
image_folder.decode_files = telling("decodes", image_folder.decode_files)
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(tar(FILES))
    return path


@pytest.fixture
def mirror(archive: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of the archive, and what was asked for."""
    asked: list[str] = []

    class Request(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = archive.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Request) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz", asked
        server.shutdown()


def at_once(count: int, program: str, *words: str | Path) -> list[str]:
    """What so many processes print, all of which must end well."""
    command = [sys.executable, "-c", PREPARED + program, *map(str, words)]
    environment = os.environ | {"no_proxy": "*"}
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(count)
    ]
    printed = [process.communicate(timeout=500) for process in processes]
    assert [process.returncode for process in processes] == [0] * count, printed
    return [out for out, _ in printed]


@pytest.mark.slow
def test_four_runs_that_start_at_once_download_once_and_each_leaves_a_whole_report(
    tmp_path: Path, archive: Path, mirror: tuple[str, list[str]]
) -> None:
    url, asked = mirror
    words = ("fit", f"--data.root={tmp_path / 'data'}", f"--data.mirrors={url}", "--data.val_size=10", "--recipe=four")
    root = f"--trainer.default_root_dir={tmp_path}"
    printed = at_once(4, "run(sys.argv[2:])", archive, *words, root, "--trainer.max_epochs=1")
    assert asked == ["/cifar-10-python.tar.gz"]
    assert "".join(printed).count("unpacks") == 1
    folders = sorted((tmp_path / "lightning_logs" / "four").iterdir())
    assert [folder.name for folder in folders] == [f"version_{i}" for i in range(4)]
    for folder in folders:
        assert sum(f"Report: {folder}/report.html" in out.replace("\n", "") for out in printed) == 1
        report = json.loads((folder / "report.json").read_text())
        assert (report["steps"], sum(map(sum, report["confusion_matrix"]))) == (10, 10)
        processes = {path.name.split(".")[-2] for path in folder.glob("events.out.tfevents.[0-9][0-9]*")}
        assert len(processes) == 1
        names = {"best.ckpt", "last.ckpt"}
        assert {path.name for path in (folder / "checkpoints").glob("[!.]*")} == names
        assert "four" in (folder / "config.yaml").read_text()
    assert len({(folder / "report.html").stat().st_ino for folder in folders}) == 4


@pytest.mark.slow
def test_four_processes_at_once_decode_a_folder_once(tmp_path: Path, archive: Path) -> None:
    root = paint_pictures(tmp_path / "pictures")
    program = "print(len(sources.open_images(Path(sys.argv[2])).train.labels))"
    printed = "".join(at_once(4, program, archive, root))
    assert sorted(printed.split()) == ["60"] * 4 + ["decodes"]


KILL = """
fresh, root = map(Path, sys.argv[2:])
started = time.monotonic()
right = sources.open_images(Path(shutil.copytree(fresh, root)))
seconds, killed = time.monotonic() - started, 0
for _ in range(25):
    shutil.rmtree(root)
    shutil.copytree(fresh, root)
    sys.stdout.flush()
    child = os.fork()
    if not child:
        sources.open_images(root)
        os._exit(0)
    time.sleep(random.uniform(0, seconds))
    os.kill(child, 9)
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    again = sources.open_images(root)
    for a, b in ((right.train, again.train), (right.test, again.test)):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    assert not list(root.glob("*.part"))
print("killed", killed)
"""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["archive", "folder"])
def test_where_a_process_was_killed_while_preparing_the_next_starts_clean(
    tmp_path: Path, archive: Path, layout: str
) -> None:
    fresh = tmp_path / "fresh"
    if layout == "archive":
        fresh.mkdir()
        (fresh / "cifar-10-python.tar.gz").write_bytes(archive.read_bytes())
    else:
        paint_pictures(fresh)
    (printed,) = at_once(1, KILL, archive, fresh, tmp_path / "root")
    assert int(printed.split()[-1]) > 0  # of 25; a process that is done before its kill comes is no proof
    right = {path.name for path in write_batches(tmp_path / "right", FILES).iterdir()}
    if layout == "archive":
        assert {path.name for path in (tmp_path / "root" / FOLDER).iterdir()} == right


def test_no_two_runs_take_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    (tmp_path / "name" / "version_0").touch()  # a file, which Lightning passes over
    with ThreadPoolExecutor(16) as pool:
        versions = list(pool.map(lambda _: RunLogger(str(tmp_path), "name").version, range(100)))
    assert len({*versions, "version_0"}) == 101
    assert all((tmp_path / "name" / version).is_dir() for version in versions)


def test_a_checkpoint_in_a_folder_that_is_not_there_does_not_make_the_folder(cli: Cli, tmp_path: Path) -> None:
    gone = tmp_path / "gone" / "last.ckpt"
    result = cli("fit", "--ckpt_path", gone)
    assert result.failed(2, "checkpoint-missing", str(gone))
    assert not gone.parent.exists()


@pytest.mark.slow
def test_a_run_is_not_resumed_while_it_goes_on_and_is_once_it_was_killed(cli: Cli, tmp_path: Path) -> None:
    words = (*DRAWN, "--checkpoint_seconds=0.5", "--trainer.default_root_dir", tmp_path)
    running = start(*words, "--trainer.max_epochs=100")
    assert running.stdout is not None
    assert any(line.startswith("epoch ") for line in running.stdout)
    folder = tmp_path / RUN
    for more in ("--resume=auto", "--ckpt_path=last"):
        result = cli(*words, "--trainer.max_epochs=100", more)
        assert result.failed(1, "run-locked", str(folder / "checkpoints"))
    assert running.poll() is None
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    step = last_checkpoint(tmp_path)["global_step"]
    result = cli(*words, "--trainer.max_epochs=100", f"--trainer.max_steps={step + 10}", "--resume=auto")
    assert result.code == 0, result.err
    assert last_checkpoint(tmp_path)["global_step"] == step + 10
    assert [path.name for path in folder.parent.iterdir()] == ["version_0"]


@pytest.mark.slow
def test_a_run_that_goes_on_elsewhere_does_not_write_into_another_s_folder(
    cli: Cli, pictures: Path, tmp_path: Path
) -> None:
    fit = ("fit", f"--data.root={pictures}", "--data.val_size=6", "--model.net.init_args.num_classes=3")
    here, there = (tmp_path / name / "lightning_logs" / "tutorial" for name in ("here", "there"))
    for runs in (here, there):
        result = cli(*fit, f"--trainer.default_root_dir={runs.parents[1]}", "--trainer.max_epochs=1")
        assert result.code == 0, result.err
    before = {path: path.read_bytes() for path in there.rglob("*") if path.is_file()}
    last = here / "version_0" / "checkpoints" / "last.ckpt"
    root = f"--trainer.default_root_dir={there.parents[1]}"
    result = cli(*fit, root, "--trainer.max_epochs=2", "--ckpt_path", last)
    assert result.code == 0, result.err
    assert "2 epochs, 28 steps" in result.out
    assert {path.name for path in there.iterdir()} == {"version_0", "version_1"}
    assert {path: path.read_bytes() for path in before} == before
