"""The sidecars that the tests of the folder above have started, clients for them, and apps behind them."""

import http.server
import json
import os
import threading
import time
import urllib.parse

import grpc
import pytest

if not os.environ.get('SDK_CALLER_ID'):
    raise SystemExit('this suite needs its sidecars: run it with go test ./test/sdk in the root of the repository')

from dapr.clients import DaprClient
from dapr.clients.grpc._response import InvokeMethodResponse
from dapr.conf import settings
from dapr.ext.grpc import App
from event_apps import GRPCEvents, HTTPEvents


class Sidecar:
    """The id, ports and address of a sidecar by its role, such as CALLER."""

    def __init__(self, role):
        self.id = os.environ[f'SDK_{role}_ID']
        self.http = os.environ[f'SDK_{role}_HTTP_PORT']
        self.grpc = os.environ[f'SDK_{role}_GRPC_PORT']
        self.app = int(os.environ.get(f'SDK_{role}_APP_PORT', 0))
        self.address = f'127.0.0.1:{self.grpc}'


def until(check, limit=10, pause=0.02):
    """Repeats a check until it does not raise an error, and returns its value."""
    end = time.monotonic() + limit
    while True:
        try:
            return check()
        except Exception:
            if time.monotonic() > end:
                raise
        time.sleep(pause)


@pytest.fixture
def caller():
    return Sidecar('CALLER')


@pytest.fixture
def client(caller):
    with DaprClient(caller.address) as c:
        yield c


@pytest.fixture(params=['http', 'grpc'])
def protocol(request, monkeypatch):
    """How the SDK invokes methods."""
    monkeypatch.setattr(settings, 'DAPR_API_METHOD_INVOCATION_PROTOCOL', request.param)
    return request.param


class Handler(http.server.BaseHTTPRequestHandler):
    """An app of the standard library alone: /echo answers with what it got, /binary with the body as it is."""

    protocol_version = 'HTTP/1.1'

    def answer(self):
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        url = urllib.parse.urlsplit(self.path)
        if url.path in ('/echo', '/deep/path/echo'):
            heard = {
                'method': self.command,
                'path': url.path,
                'query': url.query,
                'body': body.decode(),
                'headers': {k.lower(): v for k, v in self.headers.items()},
            }
            self.reply(200, 'application/json', json.dumps(heard).encode(), {'X-App': 'yes'})
        elif url.path == '/binary':
            self.reply(200, self.headers['Content-Type'], body)
        elif url.path == '/nothing':
            self.reply(204, None, b'')
        elif url.path == '/fail':
            self.reply(500, 'application/json', b'{"errorCode": "ERR_OWN", "message": "the app failed"}')
        else:
            self.reply(404, 'text/plain', b'nothing here')

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def reply(self, status, content_type, body, headers=None):
        self.send_response(status)
        for k, v in (headers or {}).items():
            self.send_header(k, v)
        if content_type:
            self.send_header('Content-Type', content_type)
        if status != 204:
            self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope='session')
def http_app():
    """An HTTP app behind its sidecar."""
    sidecar = Sidecar('HTTP_APP')
    server = http.server.ThreadingHTTPServer(('127.0.0.1', sidecar.app), Handler)
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    with DaprClient(Sidecar('CALLER').address) as c:
        until(lambda: c.invoke_method(sidecar.id, 'nothing', b'', http_verb='GET'))
    yield sidecar
    server.shutdown()
    serving.join()
    server.server_close()


class Own(grpc.GenericRpcHandler):
    """A gRPC service of the app's own, which sidecars only pass on: /test.Own/Turn turns bytes around, and fails for b'fail'."""

    def service(self, details):
        if details.method == '/test.Own/Turn':
            return grpc.unary_unary_rpc_method_handler(self.turn)
        if details.method == '/test.Own/Count':
            return grpc.unary_stream_rpc_method_handler(lambda request, _: (bytes([i]) for i in range(request[0])))
        return None

    def turn(self, request, context):
        if request == b'fail':
            context.set_trailing_metadata((('x-trailer', 'end'),))
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, 'not today')
        context.send_initial_metadata((('x-heard', dict(context.invocation_metadata()).get('x-own', '')),))
        return request[::-1]


@pytest.fixture(scope='session')
def grpc_app():
    """A gRPC app behind its sidecar."""
    sidecar = Sidecar('GRPC_APP')
    app = App()
    app.add_external_service(lambda handler, server: server.add_generic_rpc_handlers((handler,)), Own())

    @app.method('echo')
    def echo(request):
        headers = {k: v[0] for k, v in request.get_metadata(as_dict=True).items() if isinstance(v[0], str)}
        heard = {'body': request.text(), 'content_type': request.content_type, 'headers': headers}
        return InvokeMethodResponse(json.dumps(heard), 'application/json', headers=(('x-app', 'yes'),))

    @app.method('binary')
    def binary(request):
        return InvokeMethodResponse(request.data, request.content_type)

    @app.method('nothing')
    def nothing(_):
        return None

    @app.method('fail')
    def fail(_):
        raise ValueError('the app failed')

    serving = threading.Thread(target=app.run, args=(sidecar.app, '127.0.0.1'))
    serving.start()
    with DaprClient(Sidecar('CALLER').address) as c:
        until(lambda: c.invoke_method(sidecar.id, 'nothing', b'', http_verb='GET'))
    yield sidecar
    app.stop()
    serving.join()


@pytest.fixture(scope='session')
def events_http():
    """An HTTP app that gets events."""
    app = HTTPEvents(Sidecar('EVENTS_HTTP'))
    app.start()
    yield app
    app.stop()


@pytest.fixture(scope='session')
def events_grpc():
    """A gRPC app that gets events."""
    app = GRPCEvents(Sidecar('EVENTS_GRPC'))
    app.start()
    yield app
    app.stop()


@pytest.fixture(params=['http', 'grpc'])
def app(request):
    """The apps that get events, one after the other."""
    return request.getfixturevalue(f'events_{request.param}')
