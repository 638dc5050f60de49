"""What leaves the server in few system calls: answers whole, lines of the log together."""

import asyncio
import io

import pytest

from serve import logs
from serve.protocol import LARGE, Joining


class Transport:
    """Takes note of what is written, and of the end."""

    def __init__(self):
        self.written = []

    def write(self, data):
        self.written.append(data)

    def close(self):
        self.written.append("closed")

    def is_closing(self):
        return False


def written(work):
    """What `work(joining)` has written by the end of the loop's next turn."""

    async def run():
        transport = Transport()
        work(Joining(transport, asyncio.get_running_loop()))
        before = list(transport.written)
        await asyncio.sleep(0)
        return before, transport.written

    return asyncio.run(run())


def test_head_and_body_leave_in_one_write():
    def answer(joining):
        joining.write(b"head ")
        joining.write(b"body")

    assert written(answer) == ([], [b"head body"])


def test_a_head_alone_waits_for_nobody():
    assert written(lambda joining: joining.write(b"head"))[1] == [b"head"]


def test_a_large_body_is_not_copied_and_comes_after_its_head():
    body = bytes(LARGE + 1)

    def answer(joining):
        joining.write(b"head")
        joining.write(body)

    before, after = written(answer)
    assert before == after == [b"head", body]
    assert after[1] is body


def test_all_is_written_before_the_end():
    def answer(joining):
        joining.write(b"head")
        joining.close()

    before, after = written(answer)
    assert before == after == [b"head", "closed"]


def test_all_else_is_the_transports_own():
    joining = Joining(Transport(), None)
    assert not joining.is_closing()
    with pytest.raises(AttributeError):
        joining.nothing  # noqa: B018 - looking it up is what is tested


class Counted(io.RawIOBase):
    """A file that counts the system calls that write to it."""

    def __init__(self):
        super().__init__()
        self.written = []

    def writable(self):
        return True

    def write(self, data):
        self.written.append(bytes(data))
        return len(data)


def test_lines_of_the_log_leave_together_whatever_stdout_is(monkeypatch):
    file = Counted()
    # as PYTHONUNBUFFERED makes stdout
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(file, write_through=True))
    logs.buffer_stdout()

    async def run(*statuses):
        for status in statuses:
            logs.log_request({"status": status})
        assert len(file.written) == n_before
        await asyncio.sleep(0.2)

    n_before = 0
    asyncio.run(run(200, 404, 503))
    (text,) = file.written
    lines = text.decode().splitlines()
    assert [line.partition('"status":')[2] for line in lines] == ["200}", "404}", "503}"]
    n_before = 1
    asyncio.run(run(200))  # another loop flushes, too
    assert len(file.written) == 2


def test_a_loop_that_ended_early_keeps_no_later_line_back(monkeypatch):
    file = Counted()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(file))

    async def run(seconds):
        logs.log_request({"status": 200})
        await asyncio.sleep(seconds)

    asyncio.run(run(0))
    assert file.written == []
    asyncio.run(run(0.2))
    assert b"".join(file.written).count(b"\n") == 2
