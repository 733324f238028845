"""A webhook whose receiver answers 500 twice, and then 200. Each answer of 500 uses up an attempt.

pip install -e ".[demo]"
python examples/03_webhook.py
"""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from celery import Celery

from rebound_celery import Rebound
from rebound_celery.testing import running

app = Celery("webhooks")
rebound = Rebound(app)

answers = iter([500, 500, 200])
delivered = threading.Event()
started = time.monotonic()


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = next(answers)
        attempt, key = self.headers["Rebound-Attempt"], self.headers["X-Message-Key"]
        print(f"{time.monotonic() - started:4.1f} s  attempt {attempt}, key {key}: {body.decode()} -> {status}")
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if status == 200:
            delivered.set()

    def log_message(self, *_: object) -> None:
        """Print nothing, because do_POST prints a line."""


receiver = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=receiver.serve_forever, daemon=True).start()

# In production you use your own Redis, and `celery -A webhooks worker`.
with running(app):
    url = f"http://127.0.0.1:{receiver.server_port}/hooks/orders"
    rebound.schedule_retry(url, {"order": 42}, key="order-42", max_retries=3, base_delay=1)
    ended_well = delivered.wait(timeout=30)

receiver.shutdown()
receiver.server_close()
print("delivered" if ended_well else "not delivered")
raise SystemExit(not ended_well)
