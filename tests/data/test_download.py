"""Downloads from real servers on this machine that are slow, cut off, lie or keep silent."""

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mirrors import (
    ARCHIVE,
    BODY,
    CHILD,
    SLOW,
    WRONG,
    WRONG_MD5,
    Request,
    Start,
    check,
    closed,
    cut_after,
    dribble,
    half_then_silence,
    mirror,
    missing,
    no_proxy,
    part_of,
    too_many,
    whole,
    why_not,
    without_ranges,
    wrong,
)

from lit_cifar.data.download import Archive, download

pytest.importorskip("fcntl", reason="needs a POSIX system: signals that kill")

__all__ = ["closed", "mirror", "no_proxy"]  # fixtures


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


def test_a_slow_mirror_is_taken_up_again_where_all_others_fail(tmp_path: Path, mirror: Start, closed: str) -> None:
    slow, gone = mirror(dribble), mirror(missing)
    check(tmp_path, download(tmp_path, [slow.url, gone.url, f"http://{closed}/"], ARCHIVE, **SLOW))
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
    path = download(
        tmp_path, [server.url], Archive("large.tar.gz", len(body), hashlib.md5(body).hexdigest(), "CIFAR-10")
    )
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


def test_a_finished_part_needs_no_mirror(tmp_path: Path, closed: str) -> None:
    part_of(tmp_path).write_bytes(BODY)
    check(tmp_path, download(tmp_path, [f"http://{closed}/"], ARCHIVE))


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
            request.wfile.write(BODY + BODY)  # in one piece, so that no read ends exactly where the archive does

    bad = mirror(endless)
    assert why_not(tmp_path, bad.url) == f"{bad.host}: sends more than 3,000,000 bytes"
    assert list(tmp_path.iterdir()) == []


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
