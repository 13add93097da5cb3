import grpc
import pytest


def test_files(app):
    name = {'fileName': f'python-{app.name}/file.bin'}
    app.client.invoke_binding('files', 'create', b'\x00content\xff', name)
    assert app.client.invoke_binding('files', 'get', '', name).data == b'\x00content\xff'
    listed = app.client.invoke_binding('files', 'list', '', {'fileName': f'python-{app.name}'}).json()
    assert len(listed) == 1
    assert listed[0].endswith(f'/python-{app.name}/file.bin')
    app.client.invoke_binding('files', 'delete', '', name)
    with pytest.raises(grpc.RpcError) as caught:
        app.client.invoke_binding('files', 'get', '', name)
    assert caught.value.code() == grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(
    'operation, method, data',
    [('create', 'POST', 'body'), ('post', 'POST', 'ü'), ('put', 'PUT', '{}'), ('patch', 'PATCH', 'x'), ('get', 'GET', ''), ('delete', 'DELETE', '')],
)
def test_web(app, operation, method, data):
    reply = app.client.invoke_binding('web', operation, data, {'path': '/some/path', 'X-Own': 'header'})
    asked = reply.json()
    assert (asked['method'], asked['path'], asked['body'], asked['header']['X-Own']) == (method, '/some/path', data, ['header'])
    assert (reply.binding_metadata['statusCode'], reply.binding_metadata['X-Web']) == ('200', 'yes')


def test_web_fails_quietly(app):
    reply = app.client.invoke_binding('web', 'get', '', {'path': '/fail', 'errorIfNot2XX': 'false'})
    assert reply.binding_metadata['statusCode'] == '418'


@pytest.mark.parametrize(
    'name, operation, metadata, text',
    [
        ('web', 'get', {'path': '/fail'}, 'error invoking output binding web: received status code 418'),
        ('web', 'dance', {}, 'binding web does not support operation dance. supported operations:'),
        ('nothing', 'create', {}, "couldn't find output binding nothing"),
        ('tick', 'create', {}, "couldn't find output binding tick"),  # it is an input only
    ],
)
def test_errors(app, name, operation, metadata, text):
    with pytest.raises(grpc.RpcError) as caught:
        app.client.invoke_binding(name, operation, 'x', metadata)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert text in caught.value.details()


def test_input(app):
    app.await_ticks(2)
    for tick in app.on('tick', ''):
        assert 'readtimeutc' in {k.lower() for k in tick.headers}
