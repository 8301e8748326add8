"""OneWriteCycle: uvicorn's exchange of one request and its answer, with one system call for a short answer."""

import asyncio

from uvicorn._types import ASGISendEvent, HTTPResponseBodyEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

BODILESS = (204, 304)
#: No header may contain these: the control characters except the tab and the ends of lines, which are counted.
CONTROLS = bytes([*range(9), 11, 12, *range(14, 32), 127])
LAST_CHUNK = b"0\r\n\r\n"


class OneWriteCycle(RequestResponseCycle):
    """The head of an answer waits for the first part of its body, at most until the turn of the event loop ends, and
    both leave in one write: uvicorn's two writes wake the client twice. The whole head is checked for control
    characters at once."""

    _head = b""

    async def send(self, message: ASGISendEvent) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start" and not self.response_started:
            self._start(message)
        elif message["type"] == "http.response.body" and self.response_started and not self.response_complete:
            self._send_body(message)
        else:
            raise RuntimeError(f"The message {message['type']!r} comes out of turn.")

    def _start(self, message: HTTPResponseStartEvent) -> None:
        status = message["status"]
        # ASGI wants lower-case names; Django sends `Content-Length`
        fields = [(name.lower(), value) for name, value in (*self.default_headers, *message.get("headers", ()))]
        has_close = False
        for name, value in fields:
            if name == b"content-length":
                self.expected_content_length = int(value)
                self.chunked_encoding = False
            elif name == b"connection" and b"close" in value.lower():
                has_close = True
        if has_close:
            self.keep_alive = False
        elif not self.keep_alive:
            fields.append((b"connection", b"close"))
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in BODILESS:
            self.chunked_encoding = True
            fields.append((b"transfer-encoding", b"chunked"))
        lines = b"".join([b"%b: %b\r\n" % field for field in fields])
        ends = len(fields)
        if lines.count(b"\n") != ends or lines.count(b"\r") != ends or lines.translate(None, CONTROLS) != lines:
            raise RuntimeError("A header contains a control character.")
        self.response_started = True
        self.waiting_for_100_continue = False
        self._head = b"%b%b\r\n" % (STATUS_LINE[status], lines)
        asyncio.get_running_loop().call_soon(self._send_head)

    def _send_head(self) -> None:
        """Sends the head of an answer whose body lets its client wait."""
        head, self._head = self._head, b""
        if head and not self.transport.is_closing():
            self.transport.write(head)

    def _send_body(self, message: HTTPResponseBodyEvent) -> None:
        body, is_last = message.get("body", b""), not message.get("more_body", False)
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
            body = b""
        elif self.chunked_encoding:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            body += LAST_CHUNK if is_last else b""
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("The answer is longer than its Content-Length.")
        head, self._head = self._head, b""
        if head and body:
            self.transport.writelines((head, body))
        elif head or body:
            self.transport.write(head or body)
        if is_last:
            self._complete()

    def _complete(self) -> None:
        if self.expected_content_length:
            raise RuntimeError("The answer is shorter than its Content-Length.")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
