"""A line to a server on this machine: asks a handful of commands, with a deadline on each."""

from __future__ import annotations

import socket


class ServerSaidNo(Exception):
    """The server answered with an error, for example LOADING."""


class ServerLine:
    """One connection over a unix socket; ``OSError`` (``TimeoutError`` included) when it does not answer."""

    def __init__(self, path: str, *, name: str, timeout: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            self._replies = self._socket.makefile("rb")
            self._ask_or_close("CLIENT", "SETNAME", name)
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> ServerLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._replies.close()
        self._socket.close()

    def ask(self, *words: str) -> str:
        """Send one command and return its answer, which must be a line, a number or a text."""
        encoded = [word.encode() for word in words]
        parts = [b"*%d\r\n" % len(encoded), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)]
        self._socket.sendall(b"".join(parts))
        return self._read_reply()

    def info(self, section: str) -> dict[str, str]:
        """Return one section of the server's INFO."""
        lines = self.ask("INFO", section).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def _ask_or_close(self, *words: str) -> None:
        # While the server loads its data it refuses even this; the name is then missing, nothing more.
        try:
            self.ask(*words)
        except ServerSaidNo:
            return
        except OSError:
            self._replies.close()
            raise

    def _read_reply(self) -> str:
        line = self._replies.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("the server hung up")
        kind, rest = line[:1], line[1:-2].decode(errors="replace")
        if kind in (b"+", b":"):
            return rest
        if kind == b"-":
            raise ServerSaidNo(rest)
        if kind != b"$" or rest == "-1":
            raise ServerSaidNo(f"unexpected answer {line!r}")
        length = int(rest)
        body = self._replies.read(length + 2)
        if len(body) != length + 2:
            raise ConnectionResetError("the server hung up")
        return body[:-2].decode(errors="replace")


def answers(path: str, *, name: str, timeout: float = 1.0) -> bool:
    """Whether a server listens there, has loaded its data and answers a ping."""
    try:
        with ServerLine(path, name=name, timeout=timeout) as line:
            return line.ask("PING") == "PONG"
    except (OSError, ServerSaidNo):
        return False
