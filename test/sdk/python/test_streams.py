import asyncio
import os
import queue
import threading

import grpc
import pytest
from dapr.aio.clients import DaprClient as AsyncClient
from dapr.clients.grpc._response import TopicEventResponse
from test_events import needs_redis


@pytest.fixture
def stream(app):
    """Opens streams, which end with the test. One that does not yield its event in time is closed, which fails the test."""
    opened = []

    def open_stream(*args, **kwargs):
        s = app.client.subscribe(*args, **kwargs)
        limit = threading.Timer(10, s.close)
        limit.start()
        opened.append((s, limit))
        return s

    yield open_stream
    for s, limit in opened:
        limit.cancel()
        s.close()
        limit.join()


def test_stream(app, stream):
    dead = stream('broker', 'stream-dead')
    one = stream('broker', 'stream', dead_letter_topic='stream-dead')
    two = stream('broker', 'stream')
    app.client.publish_event('broker', 'stream', '{"n": 1}', {'cloudevent.id': 'streamed', 'cloudevent.subject': 'about'}, data_content_type='application/json')
    for s in (one, two):  # each gets everything
        m = s.next_message()
        assert (m.id(), m.source(), m.type(), m.spec_version(), m.data_content_type()) == ('streamed', app.id, 'com.dapr.event.sent', '1.0', 'application/json')
        assert (m.topic(), m.pubsub_name(), m.data(), m.extensions()['subject']) == ('stream', 'broker', {'n': 1}, 'about')
        s.respond_success(m)
    two.close()

    for data, respond in (('again', one.respond_retry), ('drop', one.respond_drop)):
        app.client.publish_event('broker', 'stream', data)
        m = one.next_message()
        assert m.data() == data
        respond(m)
        m = dead.next_message()
        assert m.data() == data
        dead.respond_success(m)

    raw = stream('broker', 'stream-raw', {'rawPayload': 'true'})
    app.client.publish_event('broker', 'stream-raw', b'raw \xff', {'rawPayload': 'true'})
    m = raw.next_message()
    assert m.raw_data() == b'raw \xff'
    raw.respond_success(m)


def test_stream_with_handler(app):
    events = queue.Queue()

    def handle(message):
        events.put(message.data())
        return TopicEventResponse('success')

    close = app.client.subscribe_with_handler('broker', 'handled', handle)
    try:
        for data in ('one', 'two', 'three'):
            app.client.publish_event('broker', 'handled', data)
        assert [events.get(timeout=10) for _ in range(3)] == ['one', 'two', 'three']
    finally:
        close()


class Token(grpc.aio.StreamStreamClientInterceptor):
    """Sends the API token with streams. The SDK's own interceptor is for streams too, but grpc.aio takes one for a single kind of calls."""

    async def intercept_stream_stream(self, continuation, details, requests):
        metadata = [*(details.metadata or ()), ('dapr-api-token', os.environ['DAPR_API_TOKEN'])]
        return await continuation(details._replace(metadata=grpc.aio.Metadata(*metadata)), requests)


def test_stream_in_asyncio(app):
    async def run():
        async with AsyncClient(app.sidecar.address, interceptors=[Token()]) as c:
            s = await c.subscribe('broker', 'async')
            await c.publish_event('broker', 'async', 'one')
            m = await s.next_message()
            assert m.data() == 'one'
            await s.respond_success(m)
            await s.close()

            events = asyncio.Queue()

            async def handle(message):
                await events.put(message.data())
                return TopicEventResponse('success')

            close = await c.subscribe_with_handler('broker', 'async-handled', handle)
            await c.publish_events('broker', 'async-handled', ['two'], data_content_type='text/plain')
            assert await events.get() == 'two'
            await close()

    asyncio.run(asyncio.wait_for(run(), 15))


@needs_redis
def test_stream_gives_back(app, stream):
    """An event without an answer, or to be retried, comes again: also in another stream."""
    topic = f'python-stream-{app.name}'
    s = stream('redis', topic)
    app.client.publish_event('redis', topic, 'given back')
    first = s.next_message()
    s.respond_retry(first)
    assert s.next_message().id() == first.id()
    s.close()
    s = stream('redis', topic)
    again = s.next_message()
    assert (again.id(), again.data()) == (first.id(), 'given back')
    s.respond_success(again)


@pytest.mark.parametrize(
    'broker, topic, text',
    [
        ('nobroker', 'x', 'pubsub nobroker is not found'),
        ('broker', 'forbidden', "subscription to topic 'forbidden' on pubsub 'broker' is not allowed"),
    ],
)
def test_refused_stream(app, broker, topic, text):
    with pytest.raises(Exception, match=text):
        app.client.subscribe(broker, topic)
