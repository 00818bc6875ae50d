"""A virtual board's control line: a pair of descriptors, and nobody at their end is waited for.

A board that waited for a slow controller would let its link starve. What the controller has not
read yet is kept; while that is more than MAX_WAITING_BYTES no commands are taken from it, so that
nothing is left out and what is kept stays bounded (by that, and the replies to what is under
way). A controller that is gone is noticed all the same.
"""

from __future__ import annotations

import os
import select
import time

from host.boards.control import MAX_LINE_BYTES
from models.errors import TinysplitError

MAX_WAITING_BYTES = MAX_LINE_BYTES
_READ_BYTES = 65536
_END_TIMEOUT_S = 2.0


class ControlLineError(TinysplitError):
    """There is no control line."""


def _check(descriptor: int, what: str) -> None:
    try:
        os.fstat(descriptor)
    except OSError as error:
        raise ControlLineError(
            f"{what} is closed, and a board is controlled over it: leave it open, or use --pty"
        ) from error


class ControlLine:
    """Both descriptors become non-blocking until `close`; they may be the same one.

    Raises:
        ControlLineError: one of them is not open.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        _check(read_fd, "standard input")
        _check(write_fd, "standard output")
        self._read_fd, self._write_fd = read_fd, write_fd
        self._waiting = bytearray()
        self.ended = False  # Nothing more will come in or can go out.
        self._blocking = {fd: os.get_blocking(fd) for fd in (read_fd, write_fd)}
        for fd in self._blocking:
            os.set_blocking(fd, False)
        self._poll = select.epoll()
        self._watched: dict[int, int] = {}
        self._unwatchable: set[int] = set()  # Files, /dev/null: always ready.
        self._watch()

    def watch(self, fd: int) -> None:
        """Have `fileno` be readable also when `fd` is; what is to be read there is not ours."""
        self._poll.register(fd, select.EPOLLIN)

    def fileno(self) -> int:
        """What can be read as soon as `exchange` has something to do."""
        always = self._read_fd in self._unwatchable and not self.full
        return self._read_fd if always else self._poll.fileno()

    def send(self, line: bytes) -> None:
        """Hand over a line; what cannot be written now is written by `exchange`."""
        self._waiting += line
        self._write()
        self._watch()

    def exchange(self, take: bool = True) -> bytes:
        """Write what waits and can be written; return what came in, perhaps nothing.

        Nothing is read unless `take`, nor while too much waits to be written.
        """
        happened = dict(self._poll.poll(0))
        self._write()
        data = b""
        if take and not self.full:
            data = self._read()
        elif self.full and happened.get(self._read_fd, 0) & (select.EPOLLHUP | select.EPOLLERR):
            self.ended = True
        self._watch()
        return data

    def close(self) -> None:
        """Write what still waits, but not for long, and leave the descriptors as they were."""
        end = time.monotonic() + _END_TIMEOUT_S
        while self._waiting and time.monotonic() < end:
            select.select([], [self._write_fd], [], max(end - time.monotonic(), 0))
            self._write()
        self._poll.close()
        for fd, blocking in self._blocking.items():
            os.set_blocking(fd, blocking)

    @property
    def full(self) -> bool:
        """Too much is unread: a command must wait."""
        return len(self._waiting) > MAX_WAITING_BYTES

    def _read(self) -> bytes:
        try:
            data = os.read(self._read_fd, _READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError:  # A pseudo-terminal or a socket whose other end is gone.
            data = b""
        self.ended = self.ended or not data
        return data

    def _write(self) -> None:
        try:
            while self._waiting:
                del self._waiting[: os.write(self._write_fd, self._waiting)]
        except BlockingIOError:
            pass
        except OSError:
            self._waiting.clear()
            self.ended = True

    def _watch(self) -> None:
        wanted = {self._read_fd: 0 if self.full else select.EPOLLIN}
        if self._waiting:
            wanted[self._write_fd] = wanted.get(self._write_fd, 0) | select.EPOLLOUT
        for fd in self._watched.keys() - wanted.keys():
            self._poll.unregister(fd)
            del self._watched[fd]
        for fd, events in wanted.items():
            if fd in self._watched:
                self._poll.modify(fd, events)
            elif fd not in self._unwatchable:
                try:
                    self._poll.register(fd, events)
                except PermissionError:
                    self._unwatchable.add(fd)
                    continue
            else:
                continue
            self._watched[fd] = events
