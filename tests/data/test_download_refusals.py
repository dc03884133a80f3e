"""What can stop a download: useless mirrors, wrong addresses, full disks; and what is printed meanwhile."""

import errno
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest
from conftest import refused
from mirrors import (
    ARCHIVE,
    BODY,
    CHILD,
    SLOW,
    WRONG_MD5,
    Request,
    Start,
    check,
    closed,
    cut_after,
    dribble,
    mirror,
    missing,
    no_proxy,
    page,
    part_of,
    short,
    silent,
    whole,
    why_not,
)

from lit_cifar.data.download import DownloadError, download, md5_of
from lit_cifar.errors import UsageError, UserError

__all__ = ["closed", "mirror", "no_proxy", "silent"]  # fixtures


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (missing, "HTTP 404"),
        (page, "sends an HTML page, not the archive"),
        (short, "sends 1,234 bytes instead of 3,000,000"),
        (lambda request: None, "Remote end closed connection without response"),
        (lambda request: request.wfile.write(b"SSH-2.0\r\n"), "SSH-2.0"),
    ],
    ids=["404", "page", "short", "hangs up", "no web server"],
)
def test_a_mirror_of_no_use_is_left_for_the_next_and_its_reason_kept(
    tmp_path: Path, mirror: Start, answer: Callable[[Request], None], reason: str
) -> None:
    bad, good = mirror(answer), mirror(whole)
    assert why_not(tmp_path, bad.url) == f"{bad.host}: {reason}"
    check(tmp_path, download(tmp_path, [bad.url, good.url], ARCHIVE))
    assert bad.ranges == [None, None]
    assert good.ranges == [None]


def test_a_host_that_never_answers_costs_no_more_than_connect_seconds(
    tmp_path: Path, mirror: Start, silent: str
) -> None:
    begin = time.monotonic()
    check(tmp_path, download(tmp_path, [f"http://{silent}/", mirror(whole).url], ARCHIVE, connect_seconds=0.3))
    assert 0.3 <= time.monotonic() - begin < 5


def test_one_sentence_names_every_mirror_with_its_reason_and_says_what_to_do(
    tmp_path: Path, mirror: Start, closed: str, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_such_host(host: str, *args: object, **kwargs: object) -> Any:
        if host == "no.such.host":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return getaddrinfo(host, *args, **kwargs)  # type: ignore[arg-type]

    getaddrinfo = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    slow, gone, cut = mirror(cut_slowly), mirror(missing), mirror(cut_after(1000))
    urls = [slow.url, gone.url, f"http://{closed}/a", f"https://{silent}/b", "https://no.such.host/c?d", cut.url]
    reasons = (
        *(f"{slow.host}: HTTP 500", f"{gone.host}: HTTP 404", f"{closed}: connection refused"),
        *(f"{silent}: no answer within 1 s", "no.such.host: no such host", f"{cut.host}: broke off at 0 of 3 MB"),
    )
    remedies = "some.tar.gz", str(tmp_path), "--data.mirrors", "--data.dataset drawn"
    with refused(DownloadError, "download-failed", *reasons, *remedies):
        download(tmp_path, urls, ARCHIVE, connect_seconds=1, **SLOW)
    assert not (tmp_path / ARCHIVE.name).exists()


def cut_slowly(request: Request) -> None:
    """Slow at first, and out of order when asked again."""
    if len(request.server.ranges) > 1:
        request.send_error(500)
    else:
        request.head_from(0)
        for _ in range(200):
            request.wfile.write(b"x")
            if request.server.closing.wait(0.005):
                return


def test_without_any_mirror_the_message_says_so(tmp_path: Path) -> None:
    assert why_not(tmp_path) == "no mirror was given"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "cifar.tar.gz", "https://", "http://a b/"])
def test_an_address_that_is_not_of_the_web_is_refused_before_anything_is_asked(
    tmp_path: Path, mirror: Start, url: str
) -> None:
    server = mirror(whole)
    with refused(UsageError, "value-wrong-type", url, "--data.mirrors"):
        download(tmp_path / "new", [server.url, url], ARCHIVE)
    assert server.ranges == []
    assert not (tmp_path / "new").exists()


def no_room(root: Path) -> AbstractContextManager[None]:
    """Expects an error with the size of the archive, the free space in `root`, and how to choose another folder."""
    return refused(UserError, "disk-full", str(root), "some.tar.gz", "3,000 kB", "kB are free", "--data.root")


def test_a_disk_without_room_is_noticed_before_a_mirror_is_asked(
    tmp_path: Path, mirror: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    part_of(tmp_path).write_bytes(BODY[:1_000_000])
    server = mirror(whole)

    class Usage:
        free = 1_999_999

    monkeypatch.setattr("shutil.disk_usage", lambda root: Usage)
    with no_room(tmp_path):
        download(tmp_path, [server.url], ARCHIVE)
    assert server.ranges == []
    assert part_of(tmp_path).stat().st_size == 1_000_000

    Usage.free = 2_000_000  # what is missing, and no more
    check(tmp_path, download(tmp_path, [server.url], ARCHIVE))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full: a disk that is always full")
def test_a_disk_that_fills_up_in_the_middle_is_named(tmp_path: Path, mirror: Start) -> None:
    part_of(tmp_path).symlink_to("/dev/full")
    with no_room(tmp_path):
        download(tmp_path, [mirror(whole).url], ARCHIVE)
    assert not (tmp_path / ARCHIVE.name).exists()


def test_a_quota_that_shows_only_at_the_end_is_a_lack_of_room_and_keeps_the_part(
    tmp_path: Path, mirror: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def over_quota(descriptor: int) -> NoReturn:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr("os.fsync", over_quota)
    with no_room(tmp_path):
        download(tmp_path, [mirror(whole).url], ARCHIVE)
    assert not (tmp_path / ARCHIVE.name).exists()
    assert part_of(tmp_path).read_bytes() == BODY


@pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 0)() == 0, reason="needs another user than root: root may write anywhere"
)
def test_a_folder_without_permission_is_named(tmp_path: Path, mirror: Start) -> None:
    tmp_path.chmod(0o500)
    with refused(UserError, "not-writable", str(tmp_path), "Permission denied"):
        download(tmp_path, [mirror(whole).url], ARCHIVE)


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path, mirror: Start) -> None:
    (tmp_path / "file").touch()
    root = tmp_path / "file" / "root"
    with refused(UserError, "not-writable", str(root), "Not a directory", "--data.root"):
        download(root, [mirror(whole).url], ARCHIVE)


def test_where_stderr_is_no_terminal_a_line_names_each_mirror_that_is_tried(
    tmp_path: Path, mirror: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    gone, good = mirror(missing), mirror(cut_after(2_000_000))
    download(tmp_path, [gone.url, good.url], ARCHIVE)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"Downloading CIFAR-10 (3 MB) from {gone.host}\nDownloading CIFAR-10 (3 MB) from {good.host}\n"


def test_a_terminal_shows_a_bar_with_host_bytes_and_rate(tmp_path: Path, mirror: Start) -> None:
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal: the module pty")
    server = mirror(dribble)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", CHILD, str(tmp_path), server.url, *map(str, ARCHIVE)]
    with subprocess.Popen(command, stderr=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"}) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # a terminal that nobody holds open any more
            while piece := os.read(ours, 65536):
                shown += piece
        os.close(ours)
        assert process.wait(30) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(rf"CIFAR-10 from {server.host} .*[1-9]\.\d/3\.0 MB .*\d MB/s", text)
    assert "Downloading" not in text


def test_the_proxy_of_the_environment_is_used(tmp_path: Path, mirror: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = mirror(whole)
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
    check(tmp_path, download(tmp_path, ["http://cifar.invalid/some.tar.gz"], ARCHIVE))
    assert proxy.paths == ["http://cifar.invalid/some.tar.gz"]


def test_the_md5_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BODY)
    assert md5_of(tmp_path / "file") == ARCHIVE.md5
    assert md5_of(tmp_path / "file") != WRONG_MD5


def test_downloading_does_not_wait_for_torch() -> None:
    code = "import sys, lit_cifar.data.download; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
