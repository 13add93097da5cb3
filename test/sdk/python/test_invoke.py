import json
import os

import grpc
import pytest
from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprHttpError

TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'
HEADERS = (('x-own', 'header'), ('traceparent', f'00-{TRACE}-00f067aa0ba902b7-01'))


@pytest.fixture
def invoker(caller, protocol):
    """A client that invokes over one of the protocols."""
    with DaprClient(caller.address) as c:
        yield c


def check_headers(headers, caller, app):
    assert headers['x-own'] == 'header'
    assert headers['dapr-caller-app-id'] == caller.id
    assert headers['dapr-callee-app-id'] == app.id
    assert headers['dapr-api-token'] == os.environ['APP_API_TOKEN']
    assert TRACE in headers['traceparent']


@pytest.mark.parametrize('verb', ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'])
def test_http_app(invoker, protocol, caller, http_app, verb):
    body = '' if verb == 'GET' else '{"some": "data"}'
    reply = invoker.invoke_method(http_app.id, 'deep/path/echo', body, content_type='application/json', metadata=HEADERS, http_verb=verb, http_querystring=(('a', '1'), ('b', 'x y')))
    heard = reply.json()
    assert (heard['method'], heard['path'], heard['body']) == (verb, '/deep/path/echo', body)
    assert heard['query'].replace('%20', '+') == 'a=1&b=x+y'
    if body:
        assert heard['headers']['content-type'] == 'application/json'
    check_headers(heard['headers'], caller, http_app)
    assert {k.lower(): v for k, v in reply.get_headers(as_dict=True).items()}['x-app'] in ('yes', ['yes'])
    assert reply.content_type == 'application/json'


@pytest.mark.parametrize('size', [0, 5, 1 << 20, 3 << 20])
def test_binary(invoker, http_app, grpc_app, size):
    data = os.urandom(size)
    for app in (http_app, grpc_app):
        reply = invoker.invoke_method(app.id, 'binary', data, content_type='application/octet-stream', http_verb='POST')
        assert reply.data == data
        assert reply.content_type == 'application/octet-stream'


def test_http_app_answers_nothing(invoker, http_app):
    assert invoker.invoke_method(http_app.id, 'nothing', b'', http_verb='POST').data == b''


@pytest.mark.parametrize(
    'method, status, text, code, grpc_text',
    [
        ('fail', 500, 'the app failed', grpc.StatusCode.UNKNOWN, 'Internal Server Error'),
        ('missing', 404, 'HTTP status code: 404', grpc.StatusCode.NOT_FOUND, 'Not Found'),
    ],
)
def test_http_app_errors(invoker, protocol, http_app, method, status, text, code, grpc_text):
    with pytest.raises((DaprHttpError, grpc.RpcError)) as caught:
        invoker.invoke_method(http_app.id, method, b'x', http_verb='POST')
    if protocol == 'http':
        assert caught.value.status_code == status
        assert caught.value.message == text
        assert caught.value.error_code == ('ERR_OWN' if status == 500 else 'UNKNOWN')
    else:
        assert (caught.value.code(), caught.value.details()) == (code, grpc_text)


def test_grpc_app(invoker, protocol, caller, grpc_app):
    reply = invoker.invoke_method(grpc_app.id, 'echo', 'text', content_type='text/plain', metadata=HEADERS, http_verb='POST')
    heard = json.loads(reply.text())
    assert (heard['body'], heard['content_type']) == ('text', 'text/plain')
    check_headers(heard['headers'], caller, grpc_app)
    assert {k.lower(): v for k, v in reply.get_headers(as_dict=True).items()}['x-app'] in ('yes', ['yes'])
    assert reply.content_type == 'application/json'


@pytest.mark.parametrize(
    'method, status, code, text',
    [
        ('fail', 500, grpc.StatusCode.UNKNOWN, 'Exception calling application: the app failed'),
        ('missing', 501, grpc.StatusCode.UNIMPLEMENTED, 'Exception calling application: missing method not implemented!'),
    ],
)
def test_grpc_app_errors(invoker, protocol, grpc_app, method, status, code, text):
    with pytest.raises((DaprHttpError, grpc.RpcError)) as caught:
        invoker.invoke_method(grpc_app.id, method, b'x', http_verb='POST')
    if protocol == 'http':
        assert caught.value.status_code == status
        assert json.loads(caught.value.raw_response_bytes) == {'code': code.value[0], 'message': text}
    else:
        assert (caught.value.code(), caught.value.details()) == (code, text)


def test_unknown_app(invoker, protocol):
    with pytest.raises((DaprHttpError, grpc.RpcError)) as caught:
        invoker.invoke_method('nobody', 'method', b'x', http_verb='POST')
    if protocol == 'http':
        assert (caught.value.status_code, caught.value.error_code) == (500, 'ERR_DIRECT_INVOKE')
        assert 'failed to invoke, id: nobody, err: ' in caught.value.message
    else:
        assert caught.value.code() == grpc.StatusCode.INTERNAL
        assert 'failed to invoke, id: nobody, err: ' in caught.value.details()


def test_proxy(caller, grpc_app):
    """Calls a gRPC service of the app's own through the sidecars."""
    metadata = (('dapr-app-id', grpc_app.id), ('dapr-api-token', os.environ['DAPR_API_TOKEN']), ('x-own', 'header'))
    with grpc.insecure_channel(caller.address) as channel:
        turn = channel.unary_unary('/test.Own/Turn')
        reply, call = turn.with_call(b'\x00abc\xff', metadata=metadata, timeout=10)
        assert reply == b'\xffcba\x00'
        assert dict(call.initial_metadata())['x-heard'] == 'header'
        with pytest.raises(grpc.RpcError) as caught:
            turn(b'fail', metadata=metadata, timeout=10)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.FAILED_PRECONDITION, 'not today')
        assert dict(caught.value.trailing_metadata())['x-trailer'] == 'end'
        count = channel.unary_stream('/test.Own/Count')
        assert list(count(b'\x05', metadata=metadata, timeout=10)) == [b'\x00', b'\x01', b'\x02', b'\x03', b'\x04']
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary('/test.Own/None')(b'', metadata=metadata, timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
