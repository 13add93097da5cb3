import grpc
import pytest


@pytest.mark.parametrize(
    'store, key, want',
    [
        ('secrets', 'plain', {'plain': 'open sesame'}),
        ('secrets', 'redis:password', {'redis:password': 'x'}),
        ('secrets', 'redis:hosts:1', {'redis:hosts:1': 'b'}),
        ('multi', 'redis', {'password': 'x', 'hosts:0': 'a', 'hosts:1': 'b'}),
        ('multi', 'forbidden', {'forbidden': 'no'}),  # only the other store has a scope
    ],
)
def test_get(client, store, key, want):
    assert client.get_secret(store, key).secret == want


def test_bulk(client):
    secrets = client.get_bulk_secret('secrets').secrets
    del secrets['sqlite-path']  # differs from run to run
    assert secrets == {
        'plain': {'plain': 'open sesame'},
        'redis:password': {'redis:password': 'x'},
        'redis:hosts:0': {'redis:hosts:0': 'a'},
        'redis:hosts:1': {'redis:hosts:1': 'b'},
    }
    assert client.get_bulk_secret('multi').secrets['redis'] == {'password': 'x', 'hosts:0': 'a', 'hosts:1': 'b'}


@pytest.mark.parametrize(
    'store, key, code, text',
    [
        ('secrets', 'missing', grpc.StatusCode.INTERNAL, 'failed getting secret with key missing from secret store secrets'),
        ('secrets', 'forbidden', grpc.StatusCode.PERMISSION_DENIED, 'access denied by policy to get "forbidden" from "secrets"'),
        ('nowhere', 'plain', grpc.StatusCode.INVALID_ARGUMENT, 'failed finding secret store with key nowhere'),
    ],
)
def test_errors(client, store, key, code, text):
    with pytest.raises(grpc.RpcError) as caught:
        client.get_secret(store, key)
    assert caught.value.code() == code
    assert text in caught.value.details()
