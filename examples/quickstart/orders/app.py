"""The orders service: it keeps orders in the state store of its sidecar, signs receipts with a secret from it, and publishes an
event for each order.

It knows no database, no vault and no broker, only its sidecar on DAPR_HTTP_PORT.
"""

import hashlib
import hmac
import json
import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SIDECAR = f"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}/v1.0"
STATE = f"{SIDECAR}/state/statestore"


def call(method, url, body=None):
    """Calls the sidecar and returns status, headers and the decoded body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            text = response.read()
            return response.status, response.headers, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def expect(result, *statuses):
    """Returns the body of a call that has one of the statuses."""
    status, _, body = result
    if status not in statuses:
        raise RuntimeError(f"the sidecar answered {status}: {body}")
    return body


def receipt(order):
    """Signs an order with the secret."""
    secret = expect(call("GET", f"{SIDECAR}/secrets/secrets/receipt-key"), 200)["receipt-key"]
    text = json.dumps(order, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()[:16]


def count_order():
    """Adds one to the number of orders. The ETag makes sure that no concurrent change is lost."""
    while True:
        status, headers, count = call("GET", f"{STATE}/count")
        item = {"key": "count", "value": (count or 0) + 1, "options": {"concurrency": "first-write"}}
        if status == 200:
            item["etag"] = headers["ETag"].strip('"')
        status, _, body = call("POST", STATE, [item])
        if status == 204:
            return item["value"]
        if status != 409:  # 409: somebody else was faster, so read again
            raise RuntimeError(f"the sidecar answered {status}: {body}")
        print("the count was changed meanwhile, trying again")


def place(order):
    """Saves an order and the pointer to the latest one, both or neither, and tells the world of it."""
    confirmed = dict(order, receipt=receipt(order))
    expect(
        call("POST", f"{STATE}/transaction", {"operations": [
            {"operation": "upsert", "request": {"key": f"order-{order['id']}", "value": confirmed}},
            {"operation": "upsert", "request": {"key": "latest", "value": order["id"]}},
        ]}),
        204,
    )
    expect(call("POST", f"{SIDECAR}/publish/pubsub/orders", confirmed), 204)  # whoever ships has subscribed to it
    number = count_order()
    print(f"order {order['id']} saved: {order['quantity']} x {order['item']}, number {number} in the store")
    return confirmed


def refuse_stale_write():
    """Shows that a write with an outdated ETag does not get through."""
    _, headers, latest = call("GET", f"{STATE}/latest")
    stale = headers["ETag"].strip('"')
    expect(call("POST", STATE, [{"key": "latest", "value": latest}]), 204)
    status, _, _ = call("POST", STATE, [{"key": "latest", "value": "lost update", "etag": stale}])
    print(f"a write with an outdated ETag was answered {status}, as it should be" if status == 409 else f"BUG: stale write answered {status}")
    return status


class Orders(BaseHTTPRequestHandler):
    """The HTTP face of the service."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/orders":
            return self.reply(404, {"error": "unknown path"})
        self.answer(lambda: place(json.loads(body)))

    def do_GET(self):
        if self.path == "/stale":
            self.answer(lambda: {"status": refuse_stale_write()})
        elif self.path == "/count":
            self.answer(lambda: {"count": expect(call("GET", f"{STATE}/count"), 200, 204) or 0})
        elif self.path.startswith("/orders/"):
            order = expect(call("GET", f"{STATE}/order-{self.path.removeprefix('/orders/')}"), 200, 204)
            self.reply(200 if order else 404, order or {"error": "no such order"})
        else:
            self.reply(404, {"error": "unknown path"})

    def answer(self, work):
        try:
            self.reply(200, work())
        except Exception as error:  # the caller gets to know what went wrong
            print(f"failed: {error}", file=sys.stderr)
            self.reply(500, {"error": str(error)})

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def main():
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["APP_PORT"])), Orders)
    # shutdown waits for serve_forever, so it cannot be called from the signal handler itself.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"listening on port {os.environ['APP_PORT']}")
    server.serve_forever()
    print("bye")


if __name__ == "__main__":
    main()
