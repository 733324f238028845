"""An HTTP receiver in the test's process. It records every post."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection


class Receiver:
    """Answers each post with 204, except for the posts that the arguments name.

    Args:
        refused: the attempts whose posts get the answer 500.
        hanging: the number of first posts that get no answer until `release` is set.
    """

    def __init__(self, refused: Collection[int] = (), hanging: int = 0) -> None:
        #: Body and attempt of each post, in the order of their arrival.
        self.posts: list[tuple[str, int]] = []
        self.release = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                attempt = int(self.headers["Rebound-Attempt"])
                receiver.posts.append((body, attempt))
                if len(receiver.posts) <= hanging:
                    receiver.release.wait(60)
                self.send_response(500 if attempt in refused else 204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """Log nothing, because the clients are killed on purpose."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
