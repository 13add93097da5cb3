import time

import grpc
import pytest
from conftest import Sidecar, until
from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprGrpcError
from dapr.clients.health import DaprHealth
from dapr.conf import settings


def test_waits_for_the_sidecar(client):
    start = time.monotonic()
    DaprHealth.wait_for_sidecar()
    client.wait(5)
    assert time.monotonic() - start < 5


def test_gives_up_waiting(monkeypatch):
    monkeypatch.setattr(settings, 'DAPR_HTTP_PORT', 1)  # tcpmux, which nobody serves
    monkeypatch.setattr(settings, 'DAPR_HEALTH_TIMEOUT', 0.1)
    with pytest.raises(TimeoutError):
        DaprHealth.wait_for_sidecar()


def test_metadata(client, caller):
    client.set_metadata('colour', 'blue')
    client.set_metadata('colour', 'green')
    m = client.get_metadata()
    assert m.application_id == caller.id
    assert m.extended_metadata['colour'] == 'green'
    assert m.extended_metadata['daprRuntimeVersion']
    assert m.active_actors_count == {}
    assert {c.name: f'{c.type}/{c.version}' for c in m.registered_components} == {
        'memory': 'state.in-memory/v1',
        'sqlite': 'state.sqlite/v1',
        'scoped': 'state.in-memory/v1',
        'secrets': 'secretstores.local.file/v1',
        'multi': 'secretstores.local.file/v1',
    }
    sqlite = next(c for c in m.registered_components if c.name == 'sqlite')
    assert {'ETAG', 'TRANSACTIONAL', 'TTL', 'ACTOR'} <= set(sqlite.capabilities)


@pytest.mark.parametrize('token', [None, 'wrong'])
def test_api_token(caller, monkeypatch, token):
    monkeypatch.setattr(settings, 'DAPR_API_TOKEN', token)
    with DaprClient(caller.address) as c:  # /v1.0/healthz/outbound needs no token
        with pytest.raises(DaprGrpcError) as caught:
            c.get_metadata()
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert caught.value.error_code() == 'Unauthorized'


@pytest.mark.parametrize('role', ['DOOMED_HTTP', 'DOOMED_GRPC'])
def test_shutdown(role):
    with DaprClient(Sidecar(role).address) as c:
        c.save_state('memory', 'last', 'words')
        c.shutdown()

        def gone():
            try:
                c.get_metadata()
            except DaprGrpcError as e:
                assert e.code() == grpc.StatusCode.UNAVAILABLE
            else:
                raise AssertionError('the sidecar still answers')

        until(gone)
