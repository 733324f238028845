"""The HTTP receiver. The plan decides its answers. `python -m tests.torture.receiver port`."""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.torture.journal import Journal
from tests.torture.plan import HTTP_TIMEOUT_S, Answer, answer

#: How long a post gets no answer, in seconds.
HANG_S = 3 * HTTP_TIMEOUT_S
LATE_S = 1.5 * HTTP_TIMEOUT_S


class Receiver(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    journal: Journal

    def do_POST(self) -> None:
        began = time.time_ns()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        message_id, attempt = json.loads(body)["id"], int(self.headers["Rebound-Attempt"])
        kind = answer(message_id, attempt)
        time.sleep({Answer.HANG: HANG_S, Answer.LATE: LATE_S}.get(kind, 0))
        # A client that closed the connection before the answer does not count the post as a success. A client that is
        # still there may. The journal is written before the answer. If the receiver is killed in between, the message
        # is in the journal and is posted once more.
        taken = kind in (Answer.OK, Answer.CUT_OK) or (kind == Answer.LATE and not self._peer_is_gone())
        self.journal.write(id=message_id, attempt=attempt, ns=began, end_ns=time.time_ns(), answer=kind, taken=taken)
        if kind == Answer.HANG:
            self.close_connection = True
            return
        cut = kind in (Answer.CUT_OK, Answer.CUT_ERROR)
        text = b"taken" if taken else b"refused"
        self.send_response(200 if taken else 500)
        self.send_header("Content-Length", str(len(text) + 1000 * cut))
        self.end_headers()
        self.wfile.write(text)
        self.close_connection = self.close_connection or cut

    def _peer_is_gone(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
        """Log nothing, because the journal has every post."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing, because clients often close the connection here."""


if __name__ == "__main__":
    Receiver.journal = Journal("posts")
    Server(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
