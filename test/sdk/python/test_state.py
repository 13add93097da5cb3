import json

import grpc
import pytest
from conftest import Sidecar, until
from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprGrpcError
from dapr.clients.grpc._request import TransactionalStateOperation, TransactionOperationType
from dapr.clients.grpc._state import Concurrency, Consistency, StateItem, StateOptions


@pytest.fixture(params=['memory', 'sqlite'])
def store(request):
    return request.param


@pytest.fixture
def key(request):
    """A key that no other test uses."""
    return 'python/' + request.node.name


def failing(call, code, text, reason):
    """Checks that a call fails as wanted."""
    with pytest.raises(DaprGrpcError) as caught:
        call()
    assert caught.value.code() == code
    assert text in caught.value.details()
    assert caught.value.error_code() == reason


@pytest.mark.parametrize('value', ['text', b'\x00\x01\xfe\xff', json.dumps({'nested': [1, 2.5, 'ü']}), 'x' * (1 << 20)], ids=['text', 'bytes', 'json', 'large'])
def test_save_get_delete(client, store, key, value):
    assert client.get_state(store, key).data == b''
    client.save_state(store, key, value)
    got = client.get_state(store, key)
    assert got.data == (value if isinstance(value, bytes) else value.encode())
    assert got.etag
    client.delete_state(store, key)
    got = client.get_state(store, key)
    assert (got.data, got.etag) == (b'', '')
    client.delete_state(store, key)  # deleting nothing is fine


def test_etags(client, store, key):
    client.save_state(store, key, '1')
    first = client.get_state(store, key).etag
    client.save_state(store, key, '2', etag=first)
    second = client.get_state(store, key).etag
    assert second != first
    mismatch = (grpc.StatusCode.ABORTED, 'possible etag mismatch')
    failing(lambda: client.save_state(store, key, '3', etag=first), *mismatch, 'ERR_STATE_SAVE')
    with pytest.raises(grpc.RpcError) as caught:
        client.delete_state(store, key, etag=first)
    assert caught.value.code() == mismatch[0]
    assert mismatch[1] in caught.value.details()
    assert client.get_state(store, key).data == b'2'
    client.delete_state(store, key, etag=second, options=StateOptions(concurrency=Concurrency.first_write))
    assert client.get_state(store, key).data == b''


def test_options(client, store, key):
    first = StateOptions(consistency=Consistency.strong, concurrency=Concurrency.first_write)
    client.save_state(store, key, '1', options=first)
    with pytest.raises(DaprGrpcError):
        client.save_state(store, key, '2', options=first)
    assert client.get_state(store, key).data == b'1'
    client.save_state(store, key, '3', options=StateOptions(consistency=Consistency.eventual, concurrency=Concurrency.last_write))
    assert client.get_state(store, key).data == b'3'


def test_ttl(client, store, key):
    client.save_state(store, key, 'long', state_metadata={'ttlInSeconds': '100'})
    assert client.get_state(store, key).data == b'long'
    client.save_state(store, key, 'short', state_metadata={'ttlInSeconds': '1'})

    def expired():
        assert client.get_state(store, key).data == b''

    until(expired)
    failing(lambda: client.save_state(store, key, 'x', state_metadata={'ttlInSeconds': 'soon'}), grpc.StatusCode.INTERNAL, f'failed saving state in state store {store}', 'ERR_STATE_SAVE')


def test_bulk(client, store, key):
    keys = [f'{key}/{i}' for i in range(12)]
    client.save_bulk_state(store, [StateItem(key=k, value=f'value {i}', metadata={'ttlInSeconds': '100'}) for i, k in enumerate(keys)])
    got = {x.key: x for x in client.get_bulk_state(store, keys + [key + '/missing'], parallelism=3).items}
    assert len(got) == len(keys) + 1
    for i, k in enumerate(keys):
        assert (got[k].text(), got[k].error) == (f'value {i}', '')
        assert got[k].etag
    assert (got[key + '/missing'].data, got[key + '/missing'].etag) == (b'', '')
    # One item with another etag fails the call, and keeps no other item from being saved.
    failing(lambda: client.save_bulk_state(store, [StateItem(key=keys[0], value='new'), StateItem(key=keys[1], value='new', etag='4711')]),
            grpc.StatusCode.ABORTED, 'possible etag mismatch', 'ERR_STATE_SAVE')
    assert client.get_state(store, keys[0]).data == b'new'
    assert client.get_state(store, keys[1]).data == b'value 1'


def test_transaction(client, store, key):
    upsert, delete = TransactionOperationType.upsert, TransactionOperationType.delete
    a, b, old = key + '/a', key + '/b', key + '/old'
    client.save_state(store, old, 'old')
    client.execute_state_transaction(store, [
        TransactionalStateOperation(key=a, data='1', operation_type=upsert),
        TransactionalStateOperation(key=b, data=b'\x00\xff', operation_type=upsert),
        TransactionalStateOperation(key=old, operation_type=delete),
    ], transactional_metadata={'ttlInSeconds': '100'})
    assert client.get_state(store, a).data == b'1'
    assert client.get_state(store, b).data == b'\x00\xff'
    assert client.get_state(store, old).data == b''
    with pytest.raises(grpc.RpcError) as caught:
        client.execute_state_transaction(store, [
            TransactionalStateOperation(key=b, data='3', operation_type=upsert),
            TransactionalStateOperation(key=a, data='4', etag='4711', operation_type=upsert),
        ])
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert 'error while executing state transaction' in caught.value.details()
    assert client.get_state(store, b).data == b'\x00\xff'  # nothing of it was done
    client.execute_state_transaction(store, [TransactionalStateOperation(key=a, data='5', etag=client.get_state(store, a).etag)])
    assert client.get_state(store, a).data == b'5'


def test_errors(client):
    not_found = (grpc.StatusCode.INVALID_ARGUMENT, 'state store nowhere is not found', 'DAPR_STATE_NOT_FOUND')
    failing(lambda: client.get_state('nowhere', 'key'), *not_found)
    failing(lambda: client.save_state('nowhere', 'key', 'x'), *not_found)
    failing(lambda: client.get_bulk_state('nowhere', ['key']), *not_found)
    failing(lambda: client.save_state('memory', 'a||b', 'x'), grpc.StatusCode.INVALID_ARGUMENT, "input key/keyPrefix 'a||b' can't contain '||'", 'DAPR_STATE_ILLEGAL_KEY')


def test_scopes(client):
    client.save_state('scoped', 'key', 'x')
    client.save_state('sqlite', 'python/mine', 'x')
    with DaprClient(Sidecar('HTTP_APP').address) as other:
        failing(lambda: other.save_state('scoped', 'key', 'x'), grpc.StatusCode.INVALID_ARGUMENT, 'state store scoped is not found', 'DAPR_STATE_NOT_FOUND')
        assert other.get_state('sqlite', 'python/mine').data == b''  # apps do not see each other's keys
