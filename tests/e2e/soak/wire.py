"""The clients' HTTP/1.1: complete and slow reads, and disconnects in every phase."""

import asyncio
import re
import socket
import ssl
import struct
import zlib

SIZE = re.compile(rb"([0-9a-fA-F]+)\r\n")
READ_S = 90  # the limit for any response
UNVERIFIED = ssl.create_default_context()
UNVERIFIED.check_hostname, UNVERIFIED.verify_mode = False, ssl.CERT_NONE


class Answer:
    """A response: the received part of its body, and whether it is complete."""

    __slots__ = ("status", "headers", "body", "whole", "broke")

    def __init__(self):
        self.status, self.headers, self.body, self.whole, self.broke = 0, {}, b"", False, None


def unchunk(raw):
    """Returns the received data of a chunked body, and whether it is complete."""
    at, pieces = 0, []
    while match := SIZE.match(raw, at):
        size, at = int(match[1], 16), match.end()
        if size == 0:
            return b"".join(pieces), raw.endswith(b"\r\n\r\n")
        pieces.append(raw[at : at + size])
        at += size + 2
    return b"".join(pieces), False


class Link:
    """A connection that is opened when needed and kept as long as the other side keeps it."""

    def __init__(self, where, secure=False, buffer=None):
        self.where, self.secure, self.buffer, self.streams = where, secure, buffer, None

    async def open(self):
        """Returns a connection, and whether it is fresh."""
        if self.streams and not self.streams[0].at_eof() and not self.streams[1].is_closing():
            return False
        self.drop()
        if isinstance(self.where, str):
            self.streams = await asyncio.open_unix_connection(self.where)
        else:
            raw = socket.socket()
            raw.setblocking(False)
            if self.buffer:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.buffer)
            await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self.where))
            words = {"ssl": UNVERIFIED, "server_hostname": "localhost"} if self.secure else {}
            self.streams = await asyncio.open_connection(sock=raw, limit=self.buffer or 1 << 18, **words)
        return True

    def drop(self, reset=False):
        """Closes the connection, by RST on request."""
        if not self.streams:
            return
        writer, self.streams = self.streams[1], None
        raw = writer.get_extra_info("socket")
        if reset and raw is not None and not isinstance(self.where, str):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort() if reset or self.secure else writer.close()

    async def ask(self, message, pause=0.0):
        """Sends a request and reads its response; a pause between reads makes a slow reader."""
        answer = Answer()
        try:
            async with asyncio.timeout(READ_S):
                fresh = await self.open()
                try:
                    self.streams[1].write(message)
                    await self.streams[1].drain()
                    head = await self.streams[0].readuntil(b"\r\n\r\n")
                except (OSError, asyncio.IncompleteReadError) as error:
                    if fresh or getattr(error, "partial", b""):
                        raise
                    # A kept connection may be closed by the other side at any time.
                    self.drop()
                    await self.open()
                    self.streams[1].write(message)
                    head = await self.streams[0].readuntil(b"\r\n\r\n")
                await self.read(answer, head, pause)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            answer.broke = f"{type(error).__name__}: {error}"
        if not answer.whole or answer.headers.get("connection") == "close":
            self.drop()
        return answer

    async def read(self, answer, head, pause):
        """Reads the rest of a response."""
        lines = head.decode("latin-1").split("\r\n")
        answer.status = int(lines[0].split(" ", 2)[1])
        for line in lines[1:-2]:
            name, _, value = line.partition(": ")
            name = name.lower()
            answer.headers[name] = f"{answer.headers[name]}; {value}" if name in answer.headers else value
        reader, length, raw = self.streams[0], answer.headers.get("content-length"), bytearray()
        chunked = "transfer-encoding" in answer.headers
        if answer.status == 204:
            answer.whole = True
            return
        try:
            while True:
                if chunked and raw.endswith(b"0\r\n\r\n") and unchunk(bytes(raw))[1]:
                    break
                if length is not None and len(raw) >= int(length):
                    break
                data = await reader.read(2048 if pause else 1 << 16)
                if not data:
                    break
                raw += data
                if pause:
                    await asyncio.sleep(pause)
        except OSError as error:
            answer.broke = f"{type(error).__name__}: {error}"
        answer.body, answer.whole = bytes(raw), length is not None and len(raw) == int(length)
        if chunked:
            answer.body, answer.whole = unchunk(answer.body)
        if answer.whole and answer.headers.get("content-encoding") == "gzip":
            answer.body = zlib.decompress(answer.body, 31)

    async def leave(self, message, phase, dice):
        """Sends a request or a part of it, and disconnects in a phase; returns the phase it reached."""
        came = "head"
        try:
            async with asyncio.timeout(READ_S):
                await self.open()
                reader, writer = self.streams
                body_at = message.index(b"\r\n\r\n") + 4
                sent = {"head": dice.randrange(1, body_at), "body": (body_at + len(message)) // 2}.get(phase)
                writer.write(message[:sent])
                await writer.drain()
                if phase == "sent":
                    await asyncio.sleep(dice.random() / 20)
                elif phase == "stream":
                    # Connections with a complete response, or without any, are closed as well.
                    async with asyncio.timeout(2):
                        for _ in range(dice.randrange(1, 12)):
                            if not await reader.read(1024):
                                break
                            came = "stream"
        except (OSError, TimeoutError):
            pass
        self.drop(reset=dice.random() < 0.5)
        return came
