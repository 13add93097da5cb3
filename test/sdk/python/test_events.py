import json
import os

import grpc
import pytest
from dapr.clients import BulkPublishEntry
from dapr.clients.exceptions import DaprGrpcError
from dapr.clients.grpc._request import TransactionalStateOperation, TransactionOperationType
from event_apps import REDIS

TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'
needs_redis = pytest.mark.skipif(not REDIS, reason='there is no Redis server')


@pytest.mark.parametrize(
    'data, content_type, want, is_type',
    [
        ('{"n": [1, 2.5, null]}', 'application/json', {'n': [1, 2.5, None]}, 'application/json'),
        ('just text ü', None, 'just text ü', 'text/plain'),
        ('just text too', 'text/plain', 'just text too', 'text/plain'),
        ('<a>b</a>', 'application/xml', '<a>b</a>', 'application/xml'),
        (b'\x00\x01\xfe\xff', 'application/octet-stream', b'\x00\x01\xfe\xff', 'application/octet-stream'),
        ('{"n": 9007199254740993}', 'application/json', {'n': 9007199254740993}, 'application/json'),
        ('a=b', 'application/x-www-form-urlencoded', 'a=b', 'application/x-www-form-urlencoded'),
    ],
)
def test_published(app, data, content_type, want, is_type):
    app.client.publish_event('broker', 'orders', data, data_content_type=content_type)
    got = app.wait('orders', want)
    assert got.event['id']
    attributes = {k: got.event[k] for k in ('source', 'type', 'specversion', 'datacontenttype', 'topic', 'pubsubname')}
    assert attributes == {
        'source': app.id,
        'type': 'com.dapr.event.sent',
        'specversion': '1.0',
        'datacontenttype': is_type,
        'topic': 'orders',
        'pubsubname': 'broker',
    }
    assert got.headers['dapr-api-token'] == os.environ['APP_API_TOKEN']
    assert got.headers['pubsubname'] == 'broker'


def test_deep_topic(app):
    app.client.publish_event('broker', 'deep/er', 'below')
    app.wait('deeper', 'below')


def test_own_envelope(app):
    own = {'specversion': '1.0', 'id': 'own', 'source': 'here', 'type': 'own.type', 'subject': 'about', 'extra': 'more', 'topic': 'elsewhere', 'datacontenttype': 'application/json', 'data': {'own': True}}
    app.client.publish_event('broker', 'orders', json.dumps(own), data_content_type='application/cloudevents+json')
    event = app.wait('orders', {'own': True}).event
    assert {k: event[k] for k in own if k != 'data'} == {**{k: v for k, v in own.items() if k != 'data'}, 'topic': 'orders'}
    assert event['time']


def test_metadata(app):
    metadata = {
        'cloudevent.id': 'given',
        'cloudevent.source': 'somewhere',
        'cloudevent.TYPE': 'given.type',
        'cloudevent.subject': 'about',
        'cloudevent.traceparent': f'00-{TRACE}-00f067aa0ba902b7-01',
        'ttlInSeconds': '60',
        'own': 'header',
    }
    app.client.publish_event('broker', 'orders', 'with metadata', metadata)
    got = app.wait('orders', 'with metadata')
    assert {k: got.event[k] for k in ('id', 'source', 'type', 'subject')} == {'id': 'given', 'source': 'somewhere', 'type': 'given.type', 'subject': 'about'}
    assert TRACE in got.event['traceparent']
    assert got.event['traceid'] == got.event['traceparent']
    assert got.event['expiration']
    assert got.headers['own'] == 'header'


def test_raw(app):
    app.client.publish_event('broker', 'raw', b'raw \xff', {'rawPayload': 'true'})
    event = app.wait('raw', b'raw \xff').event
    assert {k: event[k] for k in ('source', 'type', 'datacontenttype', 'topic')} == {'source': 'Dapr', 'type': 'com.dapr.event.sent', 'datacontenttype': 'application/octet-stream', 'topic': 'raw'}
    app.client.publish_event('broker', 'orders', '{"data": "made by hand", "datacontenttype": "text/plain"}', {'rawPayload': 'true'})
    app.wait('orders', 'made by hand')


def test_bulk(app):
    response = app.client.publish_events(
        'broker',
        'orders',
        ['bulk text', BulkPublishEntry(event='{"bulk": 1}', content_type='application/json', metadata={'own': 'entry', 'cloudevent.type': 'entry.type'}, entry_id='named')],
        publish_metadata={'own': 'request', 'two': '2'},
        data_content_type='text/plain',
    )
    assert response.failed_entries == []
    headers = app.wait('orders', 'bulk text').headers
    assert (headers['own'], headers['two']) == ('request', '2')
    got = app.wait('orders', {'bulk': 1})
    assert (got.headers['own'], got.headers['two'], got.event['type']) == ('entry', '2', 'entry.type')

    app.client.publish_events('broker', 'raw', [b'bulk raw \xff'], publish_metadata={'rawPayload': 'true'})
    app.wait('raw', b'bulk raw \xff')
    many = [f'many {i}' for i in range(200)]
    assert app.client.publish_events('broker', 'orders', many, data_content_type='text/plain').failed_entries == []
    for data in many:
        app.wait('orders', data)

    with pytest.raises(DaprGrpcError) as caught:
        app.client.publish_events('broker', 'orders', [BulkPublishEntry(event='x', entry_id='same'), BulkPublishEntry(event='y', entry_id='same')])
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert 'entryId is duplicated or not present for entry' in caught.value.details()
    assert caught.value.error_code() == 'DAPR_PUBSUB_MARSHAL_EVENTS'


def test_routed(events_grpc):
    app = events_grpc
    app.client.publish_event('broker', 'routed', '{"n": 99}', {'cloudevent.type': 'special'}, data_content_type='application/json')
    app.client.publish_event('broker', 'routed', '{"n": 11}', data_content_type='application/json')
    app.client.publish_event('broker', 'routed', '{"n": 10}', data_content_type='application/json')
    for route, n in (('routed-special', 99), ('routed-many', 11), ('routed', 10)):
        app.wait(route, {'n': n})
    assert len([g for g in app.got if g.route.startswith('routed')]) == 3


def test_legacy_handler(events_grpc):
    app = events_grpc
    app.client.publish_event('broker', 'legacy', 'old text', {'cloudevent.id': 'legacy-id'}, data_content_type='text/plain')
    event = app.wait('legacy', 'old text').event
    assert (event.EventID(), event.EventType(), event.Source(), event.Subject(), event.ContentType()) == ('legacy-id', 'com.dapr.event.sent', app.id, 'legacy', 'text/plain')
    assert event.Extensions()['pubsubname'] == 'broker'


def test_dead_letters(app):
    for data in ('taken', 'again', 'drop'):
        app.client.publish_event('broker', 'failing', data, {'cloudevent.id': f'id of {data}'})
    for data in ('again', 'drop'):
        event = app.wait('dead', data).event
        assert event['id'] == f'id of {data}'
        app.wait('failing', data)
    app.wait('failing', 'taken')
    assert app.on('dead', 'taken') == []


def test_failing_handler(events_grpc):
    events_grpc.client.publish_event('broker', 'raising', 'raised')
    events_grpc.wait('raising', 'raised')
    events_grpc.wait('dead', 'raised')


def test_declared(app):
    app.client.publish_event('broker', 'declared/others', '{"kind": "others"}', data_content_type='application/json')
    for route, topic, kind in (('declared-special', 'new', 'special'), ('declared', 'new', 'plain'), ('declared-old', 'old', 'old')):
        app.client.publish_event('broker', f'declared/{topic}', json.dumps({'kind': kind}), data_content_type='application/json')
        app.wait(route, {'kind': kind})
    assert len([g for g in app.got if g.route in ('declared', 'declared-special', 'declared-old')]) == 3


def test_outbox(app):
    operation = TransactionalStateOperation(operation_type=TransactionOperationType.upsert, key='key', data='written')
    app.client.execute_state_transaction('outbox', [operation])
    event = app.wait('written', 'written').event
    assert (event['source'], event['topic'], event['pubsubname']) == (app.id, 'written', 'broker')
    assert app.client.get_state('outbox', 'key').text() == 'written'


@pytest.mark.parametrize(
    'broker, topic, metadata, code, text, reason',
    [
        ('nobroker', 'orders', {}, grpc.StatusCode.INVALID_ARGUMENT, 'pubsub nobroker is not found', 'DAPR_PUBSUB_NOT_FOUND'),
        ('broker', 'forbidden', {}, grpc.StatusCode.PERMISSION_DENIED, 'topic forbidden is not allowed for app id ', 'DAPR_PUBSUB_FORBIDDEN'),
        ('broker', 'orders', {'rawPayload': 'perhaps'}, grpc.StatusCode.INVALID_ARGUMENT, "rawPayload value must be a valid boolean: actual is 'perhaps'", 'DAPR_PUBSUB_METADATA_DESERIALIZATION'),
    ],
)
def test_refused(app, broker, topic, metadata, code, text, reason):
    for publish in (lambda: app.client.publish_event(broker, topic, 'x', metadata), lambda: app.client.publish_events(broker, topic, ['x'], metadata)):
        with pytest.raises(DaprGrpcError) as caught:
            publish()
        assert caught.value.code() == code
        assert text in caught.value.details()
        assert caught.value.error_code() == reason


@needs_redis
def test_redis(app, events_http, events_grpc):
    app.client.publish_event('redis', 'python-shared', f'from {app.id}', {'own': 'header'})
    for each in (events_http, events_grpc):
        got = each.wait('shared', f'from {app.id}')
        assert (got.event['source'], got.event['pubsubname'], got.headers['own']) == (app.id, 'redis', 'header')


@needs_redis
def test_redis_delivers_again(app, events_http, events_grpc):
    app.client.publish_event('redis', 'python-flaky', f'from {app.id}')
    for each in (events_http, events_grpc):
        each.wait('flaky', f'from {app.id}', 2)


@needs_redis
def test_redis_dead_letters(app):
    for data in ('taken', 'again', 'drop'):
        app.client.publish_event('redis', f'python-failing-{app.name}', data)
    for data in ('again', 'drop'):
        app.wait('redis-dead', data)
        app.wait('redis-failing', data)
    app.wait('redis-failing', 'taken')
    assert app.on('redis-dead', 'taken') == []


@needs_redis
def test_declared_in_bulk(events_grpc, events_http):
    entries = ['one', 'two', 'drop', 'again', '\u00fc']
    assert events_http.client.publish_events('redis', 'python-bulk', entries, {'own': 'header'}, data_content_type='text/plain').failed_entries == []
    for data in ('one', 'two', 'drop', '\u00fc'):
        got = events_grpc.wait('declared-bulk', data)
        assert (got.event['source'], got.headers['own']) == (events_http.id, 'header')
    with events_grpc.changed:  # this one alone comes again, until the end
        assert events_grpc.changed.wait_for(lambda: len(events_grpc.on('declared-bulk', 'again')) > 1, 10)
    for data in ('one', 'two', 'drop', '\u00fc'):
        events_grpc.wait('declared-bulk', data)
