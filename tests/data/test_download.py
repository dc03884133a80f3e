"""Downloads from real servers on this machine that are slow, cut off, lie or keep silent."""

import errno
import hashlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import pytest

from lit_cifar.data.download import Archive, DownloadError, download, md5_of
from lit_cifar.errors import UsageError, UserError
from lit_cifar.whole import amount, free

BODY = random.Random(0).randbytes(3_000_000)
WRONG = random.Random(1).randbytes(len(BODY))
ARCHIVE = Archive("some.tar.gz", len(BODY), hashlib.md5(BODY).hexdigest())
WRONG_MD5 = hashlib.md5(WRONG).hexdigest()
SLOW = {"stall_rate": 100e6, "stall_seconds": 0.2}  # what dribble() can't reach

CHILD = """
import signal, sys
from pathlib import Path
from lit_cifar.data.download import Archive, download
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits that it is ignored
root, url, name, size, md5 = sys.argv[1:]
download(Path(root), [url], Archive(name, int(size), md5), connect_seconds=60)
"""


class Mirror(ThreadingHTTPServer):
    """A server that answers every request in its own way, and remembers what ranges it was asked for."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: Callable[["Request"], None]) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answer = answer
        self.ranges: list[str | None] = []
        self.paths: list[str] = []
        self.closing = threading.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/{ARCHIVE.name}"


class Request(BaseHTTPRequestHandler):
    """One request. Without `protocol_version`, a connection carries one answer and closes."""

    server: Mirror

    def do_GET(self) -> None:
        self.server.ranges.append(self.headers["Range"])
        self.server.paths.append(self.path)
        with suppress(OSError):  # the client may hang up
            self.server.answer(self)

    def start(self) -> int:
        """The byte from which the client wants the body."""
        return int(self.headers.get("Range", "bytes=0-")[len("bytes=") : -1])

    def head(self, status: int, headers: dict[str, Any]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def head_from(self, start: int, size: int = ARCHIVE.size) -> None:
        headers: dict[str, Any] = {"Content-Length": size - start}
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self.head(206 if start else 200, headers)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[Callable[[Callable[[Request], None]], Mirror]]:
    servers: list[Mirror] = []

    def start(answer: Callable[[Request], None]) -> Mirror:
        servers.append(Mirror(answer))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.closing.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("urllib.request._opener", None)  # urlopen keeps the proxies of its first call


Start = Callable[[Callable[[Request], None]], Mirror]


def whole(request: Request) -> None:
    request.head_from(request.start())
    request.wfile.write(BODY[request.start() :])


def without_ranges(request: Request) -> None:
    request.head_from(0)
    request.wfile.write(BODY)


def dribble(request: Request) -> None:
    """At most 4 MB/s: 20 kB, 5 ms or more apart."""
    request.head_from(request.start())
    for i in range(request.start(), len(BODY), 20_000):
        request.wfile.write(BODY[i : i + 20_000])
        if request.server.closing.wait(0.005):
            return


def wrong(request: Request) -> None:
    request.head_from(request.start())
    request.wfile.write(WRONG[request.start() :])


def too_many(request: Request) -> None:
    request.head(200, {})  # no Content-Length: the body ends with the connection
    request.wfile.write(BODY + b"more")


def missing(request: Request) -> None:
    request.send_error(404)


def page(request: Request) -> None:
    request.head(200, {"Content-Type": "text/html; charset=utf-8"})
    request.wfile.write(b"<html>Please log in</html>")


def short(request: Request) -> None:
    request.head(200, {"Content-Length": 1234})
    request.wfile.write(BODY[:1234])


def cut_after(size: int) -> Callable[[Request], None]:
    """Sends so many bytes and hangs up, however many it announced."""

    def answer(request: Request) -> None:
        request.head_from(request.start())
        request.wfile.write(BODY[request.start() :][:size])

    return answer


def half_then_silence(request: Request) -> None:
    request.head_from(0)
    request.wfile.write(BODY[:1_500_000])
    request.server.closing.wait()


@pytest.fixture
def refused() -> Iterator[str]:
    """Host of a port that is ours, and on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """Host of a port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def part_of(root: Path) -> Path:
    return root / f"{ARCHIVE.name}.part"


def check(root: Path, path: Path) -> None:
    """The archive is there, whole, and nothing beside it."""
    assert path == root / ARCHIVE.name
    assert path.read_bytes() == BODY
    assert list(root.iterdir()) == [path]


def why_not(root: Path, *urls: str, **limits: float) -> str:
    """Why a download failed: what its message says in brackets."""
    with pytest.raises(DownloadError) as caught:
        download(root, urls, ARCHIVE, **limits)
    found = re.search(r"\((.*)\)", str(caught.value))
    assert found
    assert not (root / ARCHIVE.name).exists()
    return found[1]


def test_an_archive_is_downloaded_into_a_folder_that_is_made_for_it(tmp_path: Path, mirror: Start) -> None:
    server = mirror(whole)
    check(tmp_path / "a" / "b", download(tmp_path / "a" / "b", [server.url], ARCHIVE))
    assert server.ranges == [None]


def test_the_first_mirror_that_works_is_the_only_one_asked(tmp_path: Path, mirror: Start) -> None:
    first, second = mirror(whole), mirror(whole)
    check(tmp_path, download(tmp_path, [first.url, second.url], ARCHIVE))
    assert second.ranges == []


def test_a_slow_mirror_is_passed_over_and_the_next_goes_on_from_there(tmp_path: Path, mirror: Start) -> None:
    slow, fast = mirror(dribble), mirror(whole)
    check(tmp_path, download(tmp_path, [slow.url, fast.url], ARCHIVE, **SLOW))
    assert slow.ranges == [None]
    [asked] = fast.ranges
    assert asked
    assert 0 < int(asked.removeprefix("bytes=").removesuffix("-")) < ARCHIVE.size


def test_a_slow_mirror_alone_may_finish(tmp_path: Path, mirror: Start) -> None:
    slow = mirror(dribble)
    check(tmp_path, download(tmp_path, [slow.url], ARCHIVE, **SLOW))
    assert slow.ranges == [None]


def test_the_last_of_two_slow_mirrors_may_finish(tmp_path: Path, mirror: Start) -> None:
    first, last = mirror(dribble), mirror(dribble)
    check(tmp_path, download(tmp_path, [first.url, last.url], ARCHIVE, **SLOW))
    assert len(first.ranges) == len(last.ranges) == 1


def test_a_slow_mirror_is_taken_up_again_where_all_others_fail(tmp_path: Path, mirror: Start, refused: str) -> None:
    slow, gone = mirror(dribble), mirror(missing)
    check(tmp_path, download(tmp_path, [slow.url, gone.url, f"http://{refused}/"], ARCHIVE, **SLOW))
    assert len(gone.ranges) == 1
    first, second = slow.ranges
    assert first is None
    assert second
    assert second != "bytes=0-"


def test_a_broken_connection_is_resumed_and_no_byte_sent_twice(tmp_path: Path, mirror: Start) -> None:
    server = mirror(cut_after(1_300_000))
    check(tmp_path, download(tmp_path, [server.url], ARCHIVE))
    assert server.ranges == [None, "bytes=1300000-", "bytes=2600000-"]


def test_a_mirror_whose_connections_keep_breaking_is_left_after_five_for_the_next(
    tmp_path: Path, mirror: Start
) -> None:
    weak, good = mirror(cut_after(1000)), mirror(whole)
    check(tmp_path, download(tmp_path, [weak.url, good.url], ARCHIVE))
    assert weak.ranges == [None, "bytes=1000-", "bytes=2000-", "bytes=3000-", "bytes=4000-"]
    assert good.ranges == ["bytes=5000-"]


def test_a_connection_that_brought_a_megabyte_may_break_any_number_of_times(tmp_path: Path, mirror: Start) -> None:
    body = BODY * 3

    def answer(request: Request) -> None:
        request.head_from(request.start(), len(body))
        request.wfile.write(body[request.start() :][:1_000_000])

    server = mirror(answer)
    path = download(tmp_path, [server.url], Archive("large.tar.gz", len(body), hashlib.md5(body).hexdigest()))
    assert path.read_bytes() == body
    assert server.ranges == [None, *(f"bytes={start}000000-" for start in range(1, 9))]


def test_a_mirror_that_sends_nothing_is_asked_once(tmp_path: Path, mirror: Start) -> None:
    server = mirror(cut_after(0))
    assert why_not(tmp_path, server.url) == f"{server.host}: broke off at 0 of 3 MB"
    assert server.ranges == [None]
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_that_falls_silent_in_the_middle_is_left_for_the_next(tmp_path: Path, mirror: Start) -> None:
    def silence(request: Request) -> None:
        request.head_from(request.start())
        if not request.start():
            request.wfile.write(BODY[:2_000_000])
        request.server.closing.wait()

    server, good = mirror(silence), mirror(whole)
    assert why_not(tmp_path, server.url, connect_seconds=0.5) == f"{server.host}: broke off at 2 of 3 MB"
    assert server.ranges == [None, "bytes=2000000-"]
    check(tmp_path, download(tmp_path, [server.url, good.url], ARCHIVE, connect_seconds=0.5))
    assert good.ranges == ["bytes=2000000-"]


def test_a_mirror_without_ranges_that_breaks_at_the_same_place_again_is_left(tmp_path: Path, mirror: Start) -> None:
    def answer(request: Request) -> None:
        request.head_from(0)
        request.wfile.write(BODY[:2_000_000])

    server = mirror(answer)
    assert why_not(tmp_path, server.url) == f"{server.host}: broke off at 2 of 3 MB"
    assert server.ranges == [None, "bytes=2000000-"]


def test_a_part_of_an_earlier_run_is_completed_by_a_mirror_with_ranges(tmp_path: Path, mirror: Start) -> None:
    part_of(tmp_path).write_bytes(BODY[:1_000_001])
    server = mirror(whole)
    check(tmp_path, download(tmp_path, [server.url], ARCHIVE))
    assert server.ranges == ["bytes=1000001-"]


def test_a_mirror_without_ranges_starts_over(tmp_path: Path, mirror: Start) -> None:
    part_of(tmp_path).write_bytes(WRONG[:1_000_001])
    server = mirror(without_ranges)
    check(tmp_path, download(tmp_path, [server.url], ARCHIVE))
    assert server.ranges == ["bytes=1000001-"]


def test_a_mirror_that_refuses_the_range_is_asked_for_the_whole(tmp_path: Path, mirror: Start) -> None:
    def answer(request: Request) -> None:
        if request.start():
            request.send_error(416)
        else:
            whole(request)

    part_of(tmp_path).write_bytes(WRONG[:1_000_001])
    server = mirror(answer)
    check(tmp_path, download(tmp_path, [server.url], ARCHIVE))
    assert server.ranges == ["bytes=1000001-", None]


@pytest.mark.parametrize("content_range", ["bytes 7-2999999/3000000", "nonsense", ""])
def test_a_mirror_that_answers_with_another_range_is_refused(tmp_path: Path, mirror: Start, content_range: str) -> None:
    part_of(tmp_path).write_bytes(BODY[:1_000_001])
    server = mirror(lambda request: request.head(206, {"Content-Range": content_range}))
    assert why_not(tmp_path, server.url) == f"{server.host}: sends other bytes than asked for"
    assert part_of(tmp_path).read_bytes() == BODY[:1_000_001]


def test_a_range_of_a_file_of_another_size_is_refused(tmp_path: Path, mirror: Start) -> None:
    part_of(tmp_path).write_bytes(BODY[:1_000_001])
    server = mirror(lambda request: request.head_from(request.start(), 3_000_001))
    assert why_not(tmp_path, server.url) == f"{server.host}: sends 3,000,001 bytes instead of 3,000,000"


def test_a_wrong_part_of_an_earlier_run_is_dropped_and_the_mirror_asked_once_more(
    tmp_path: Path, mirror: Start
) -> None:
    part_of(tmp_path).write_bytes(WRONG[:1_000_001])
    server = mirror(whole)
    check(tmp_path, download(tmp_path, [server.url], ARCHIVE))
    assert server.ranges == ["bytes=1000001-", None]


@pytest.mark.parametrize("content", [WRONG, BODY + b"more"], ids=["wrong", "too long"])
def test_a_finished_part_with_wrong_bytes_is_dropped_at_once(tmp_path: Path, mirror: Start, content: bytes) -> None:
    part_of(tmp_path).write_bytes(content)
    server = mirror(whole)
    check(tmp_path, download(tmp_path, [server.url], ARCHIVE))
    assert server.ranges == [None]


def test_a_finished_part_needs_no_mirror(tmp_path: Path, refused: str) -> None:
    part_of(tmp_path).write_bytes(BODY)
    check(tmp_path, download(tmp_path, [f"http://{refused}/"], ARCHIVE))


def test_wrong_bytes_are_thrown_away_and_the_next_mirror_starts_from_zero(tmp_path: Path, mirror: Start) -> None:
    bad, good = mirror(wrong), mirror(whole)
    check(tmp_path, download(tmp_path, [bad.url, good.url], ARCHIVE))
    assert bad.ranges == [None]
    assert good.ranges == [None]


def test_wrong_bytes_alone_leave_nothing_behind(tmp_path: Path, mirror: Start) -> None:
    bad = mirror(wrong)
    assert why_not(tmp_path, bad.url) == f"{bad.host}: MD5 is {WRONG_MD5} instead of {ARCHIVE.md5}"
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_that_sends_too_many_bytes_is_left_for_the_next(tmp_path: Path, mirror: Start) -> None:
    bad, good = mirror(too_many), mirror(whole)
    check(tmp_path, download(tmp_path, [bad.url, good.url], ARCHIVE))
    assert bad.ranges == good.ranges == [None]


def test_an_endless_body_is_stopped_soon_after_the_last_byte(tmp_path: Path, mirror: Start) -> None:
    def endless(request: Request) -> None:
        request.head(200, {})
        while not request.server.closing.is_set():
            request.wfile.write(BODY + BODY)  # in one piece, lest a read ends just where the archive does

    bad = mirror(endless)
    assert why_not(tmp_path, bad.url) == f"{bad.host}: sends more than 3,000,000 bytes"
    assert list(tmp_path.iterdir()) == []


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
    tmp_path: Path, mirror: Start, refused: str, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_such_host(host: str, *args: object, **kwargs: object) -> Any:
        if host == "no.such.host":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return getaddrinfo(host, *args, **kwargs)  # type: ignore[arg-type]

    getaddrinfo = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    slow, gone, cut = mirror(cut_slowly), mirror(missing), mirror(cut_after(1000))
    urls = [slow.url, gone.url, f"http://{refused}/a", f"https://{silent}/b", "https://no.such.host/c?d", cut.url]
    with pytest.raises(DownloadError) as caught:
        download(tmp_path, urls, ARCHIVE, connect_seconds=1, **SLOW)
    assert str(caught.value) == (
        f"CIFAR-10 could not be downloaded ({slow.host}: HTTP 500; {gone.host}: HTTP 404; {refused}: connection"
        f" refused; {silent}: no answer within 1 s; no.such.host: no such host; {cut.host}: broke off at 0 of 3 MB);"
        f" put some.tar.gz into {tmp_path}, name another mirror with --data.mirrors URL, or train on drawn images"
        " with --data.dataset drawn"
    )
    assert caught.value.exit_code == 1
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
    assert why_not(tmp_path) == "no mirror was named"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "cifar.tar.gz", "https://", "http://a b/"])
def test_an_address_that_is_not_of_the_web_is_refused_before_anything_is_asked(
    tmp_path: Path, mirror: Start, url: str
) -> None:
    server = mirror(whole)
    with pytest.raises(UsageError, match=re.escape(f"{url} is no mirror")):
        download(tmp_path / "new", [server.url, url], ARCHIVE)
    assert server.ranges == []
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_download_that_was_killed_is_resumed(tmp_path: Path, mirror: Start, sent: signal.Signals) -> None:
    first, second = mirror(half_then_silence), mirror(whole)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), first.url, *map(str, ARCHIVE)], stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 30
        while not (part_of(tmp_path).exists() and part_of(tmp_path).stat().st_size > 1_000_000):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(sent)
        assert process.wait(30) == -sent
    assert not (tmp_path / ARCHIVE.name).exists()
    have = part_of(tmp_path).stat().st_size
    check(tmp_path, download(tmp_path, [second.url], ARCHIVE))
    assert second.ranges == [f"bytes={have}-"]
    assert have > 1_000_000


def no_room(root: Path) -> str:
    return (
        f"{root} has no room for the 3,000,000 bytes of some.tar.gz ({amount(free(root))} are free); free some space"
        " there, or name another folder with --data.root"
    )


def test_a_disk_without_room_is_noticed_before_a_mirror_is_asked(
    tmp_path: Path, mirror: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    part_of(tmp_path).write_bytes(BODY[:1_000_000])
    server = mirror(whole)

    class Usage:
        free = 1_999_999

    monkeypatch.setattr("shutil.disk_usage", lambda root: Usage)
    with pytest.raises(UserError) as caught:
        download(tmp_path, [server.url], ARCHIVE)
    assert str(caught.value) == no_room(tmp_path)
    assert not isinstance(caught.value, DownloadError)  # for which `auto` would draw images
    assert server.ranges == []
    assert part_of(tmp_path).stat().st_size == 1_000_000

    Usage.free = 2_000_000  # what is missing, and no more
    check(tmp_path, download(tmp_path, [server.url], ARCHIVE))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the disk that is always full is Linux's")
def test_a_disk_that_fills_up_in_the_middle_is_named(tmp_path: Path, mirror: Start) -> None:
    part_of(tmp_path).symlink_to("/dev/full")
    with pytest.raises(UserError) as caught:
        download(tmp_path, [mirror(whole).url], ARCHIVE)
    assert str(caught.value) == no_room(tmp_path)
    assert not (tmp_path / ARCHIVE.name).exists()


def test_a_quota_that_shows_only_at_the_end_is_a_lack_of_room_and_keeps_the_part(
    tmp_path: Path, mirror: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def over_quota(descriptor: int) -> NoReturn:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr("os.fsync", over_quota)
    with pytest.raises(UserError) as caught:
        download(tmp_path, [mirror(whole).url], ARCHIVE)
    assert str(caught.value) == no_room(tmp_path)
    assert not (tmp_path / ARCHIVE.name).exists()
    assert part_of(tmp_path).read_bytes() == BODY


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path, mirror: Start) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} can't be written (Permission denied); change that")):
        download(tmp_path, [mirror(whole).url], ARCHIVE)


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path, mirror: Start) -> None:
    (tmp_path / "file").touch()
    root = tmp_path / "file" / "root"
    with pytest.raises(UserError) as caught:
        download(root, [mirror(whole).url], ARCHIVE)
    assert str(caught.value) == (
        f"{root} can't be written (Not a directory); change that, or name another folder with --data.root"
    )


def test_where_stderr_is_no_terminal_a_line_names_each_mirror_that_is_tried(
    tmp_path: Path, mirror: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    gone, good = mirror(missing), mirror(cut_after(2_000_000))
    download(tmp_path, [gone.url, good.url], ARCHIVE)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"Downloading CIFAR-10 (3 MB) from {gone.host}\nDownloading CIFAR-10 (3 MB) from {good.host}\n"


def test_a_terminal_shows_a_bar_with_host_bytes_and_rate(tmp_path: Path, mirror: Start) -> None:
    pty = pytest.importorskip("pty")
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
    (tmp_path / "file").write_bytes(BODY)  # three chunks
    assert md5_of(tmp_path / "file") == ARCHIVE.md5
    assert md5_of(tmp_path / "file") != WRONG_MD5


def test_downloading_does_not_wait_for_torch() -> None:
    code = "import sys, lit_cifar.data.download; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
