"""uvicorn's connections, with what it leaves open: no client holds one for ever, and Ctrl-C waits for none.

uvicorn has no time limit for a request's head or for the reading of an answer, so that a hundred idle sockets would
shut everybody out; it answers what is no HTTP with plain text; and at Ctrl-C it waits for uploads, then cancels them
with a traceback each.
"""

import asyncio
import json
import socket

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

CONNECTIONS = 200  # at once, of which many may be idle; more are closed unheard
PATIENCE = 10  # seconds, for a request's head to arrive and for an answer to be read


class Connection(H11Protocol):
    """A client's connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in uvicorn
        """Begins to watch it, or closes it where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        self.loop.call_later(PATIENCE, self._judge, None)

    def _judge(self, before: RequestResponseCycle | None) -> None:
        """Ends it where nothing has begun since: no first request, or none after one that was answered.

        A request without an answer is the server's own affair, and has a limit there.
        """
        if self.transport.is_closing():
            return
        if self.cycle is before and (before is None or before.response_started):
            self.transport.abort()
        else:
            self.loop.call_later(PATIENCE, self._judge, self.cycle)

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP, unless an answer has begun: then the connection ends."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": "This is no HTTP request, or one whose headers are longer than 64 kB."})
            head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
            self.transport.write(f"{head}\r\nConnection: close\r\n\r\n{body}".encode())
        self.transport.close()


class Server(uvicorn.Server):
    """A server that ends when it is told to."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends all connections, and waits for the one picture that is being computed."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)
