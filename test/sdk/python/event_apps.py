"""Apps that get events through their sidecars: a FastAPI one over HTTP, and one of the SDK's own over gRPC."""

import base64
import collections
import http.client
import os
import threading
import time
import warnings

import fastapi
import uvicorn
from dapr.clients import DaprClient
from dapr.clients.grpc._response import TopicEventResponse
from dapr.ext.fastapi import DaprApp
from dapr.ext.grpc import App, BindingRequest, Rule, SubscriptionMessage

REDIS = bool(os.environ.get('SDK_REDIS'))

# Got is an event as a handler got it. Its data is text, bytes that are not text, or what the SDK has made of JSON.
Got = collections.namedtuple('Got', 'route data event headers')

FAILING = {'again': 'retry', 'drop': 'drop'}


def plain(data):
    """Bytes as text, if they are."""
    try:
        return data.decode() if isinstance(data, bytes) else data
    except UnicodeDecodeError:
        return data


class EventApp:
    """What an app has got so far, and a client of its sidecar."""

    def __init__(self, name, sidecar):
        self.name = name
        self.sidecar = sidecar
        self.id = sidecar.id
        self.client = DaprClient(sidecar.address)
        self.changed = threading.Condition()
        self.got = []
        self.seen = set()

    def put(self, route, data, event=None, headers=None):
        with self.changed:
            self.got.append(Got(route, plain(data), event, headers))
            self.changed.notify_all()

    def on(self, route, data):
        return [g for g in self.got if g.route == route and g.data == data]

    def wait(self, route, data, n=1):
        """Waits for n events with this data on a route, checks that there are not more so far, and returns the last."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.on(route, data)) >= n, 10)
            found = self.on(route, data)
            assert len(found) == n, f'{len(found)} events with {data!r} on {route}, want {n}; the app got {[g[:2] for g in self.got[-30:]]}'
            return found[-1]

    def await_ticks(self, n):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.on('tick', '')) >= n, 10), 'the input binding does not call the app'

    def await_subscriptions(self):
        """A sidecar is ready once it has started the app's subscriptions."""
        end = time.monotonic() + 20
        while True:
            connection = http.client.HTTPConnection('127.0.0.1', int(self.sidecar.http), timeout=10)
            try:
                connection.request('GET', '/v1.0/healthz')
                status = connection.getresponse().status
            finally:
                connection.close()
            if status == 204:
                return
            assert time.monotonic() < end, f'the sidecar is not ready: {status}'
            time.sleep(0.01)

    def verdict(self, route, data):
        """What the app answers: success, retry or drop."""
        if route in ('failing', 'redis-failing', 'declared-bulk'):
            return FAILING.get(data, 'success')
        if route == 'flaky' and data not in self.seen:
            self.seen.add(data)
            return 'retry'
        return 'success'


class HTTPEvents(EventApp):
    """A FastAPI app. The SDK's extension has neither rules nor bulk subscriptions."""

    def __init__(self, sidecar):
        super().__init__('http', sidecar)
        app = fastapi.FastAPI()
        dapr = DaprApp(app)

        def handler(route):
            async def handle(request: fastapi.Request):
                event = await request.json()
                data = base64.b64decode(event['data_base64']) if 'data_base64' in event else event['data']
                self.put(route, data, event, request.headers)
                return {'status': self.verdict(route, data).upper()}

            return handle

        dapr.subscribe('broker', 'orders', route='/orders')(handler('orders'))
        dapr.subscribe('broker', 'deep/er')(handler('deeper'))  # at /events/broker/deep/er
        dapr.subscribe('broker', 'raw', metadata={'rawPayload': 'true'}, route='/raw')(handler('raw'))
        dapr.subscribe('broker', 'failing', route='/failing', dead_letter_topic='dead')(handler('failing'))
        dapr.subscribe('broker', 'dead', route='/dead')(handler('dead'))
        dapr.subscribe('broker', 'written', route='/written')(handler('written'))
        for route in ('declared', 'declared-special', 'declared-old'):
            app.post(f'/{route}')(handler(route))
        if REDIS:
            dapr.subscribe('redis', 'python-shared', route='/shared')(handler('shared'))
            dapr.subscribe('redis', 'python-flaky', route='/flaky')(handler('flaky'))
            dapr.subscribe('redis', 'python-failing-http', route='/redis-failing', dead_letter_topic='python-dead-http')(handler('redis-failing'))
            dapr.subscribe('redis', 'python-dead-http', route='/redis-dead')(handler('redis-dead'))

        @app.post('/tick')  # FastAPI answers OPTIONS with 405, which means that the app wants the binding
        async def tick(request: fastapi.Request, response: fastapi.Response):
            first = not self.on('tick', '')
            self.put('tick', await request.body(), headers=request.headers)
            response.status_code = 500 if first else 200  # which a schedule does not care about

        self.server = uvicorn.Server(uvicorn.Config(app, host='127.0.0.1', port=sidecar.app, log_level='error', lifespan='off'))
        self.serving = threading.Thread(target=self.server.run)

    def start(self):
        self.serving.start()
        self.await_subscriptions()

    def stop(self):
        self.server.should_exit = True
        self.serving.join()
        self.client.close()


class GRPCEvents(EventApp):
    """An app of the SDK's gRPC extension. Its default for a topic with rules is a subscription without validation of the topic."""

    def __init__(self, sidecar):
        super().__init__('grpc', sidecar)
        self.app = app = App()

        def handler(route):
            def handle(message: SubscriptionMessage):
                data = message.raw_data() if message.data() is None else message.data()
                self.put(route, data, self.attributes(message), message.metadata())
                return TopicEventResponse(self.verdict(route, plain(data)))

            handle.__name__ = route  # which is the path of a rule
            return handle

        app.subscribe('broker', 'orders')(handler('orders'))
        app.subscribe('broker', 'deep/er')(handler('deeper'))
        app.subscribe('broker', 'raw', metadata={'rawPayload': 'true'})(handler('raw'))
        app.subscribe('broker', 'routed', disable_topic_validation=True)(handler('routed'))
        app.subscribe('broker', 'routed', rule=Rule('event.data.n > 10', 2))(handler('routed-many'))
        app.subscribe('broker', 'routed', rule=Rule('event.type == "special"', 1))(handler('routed-special'))
        app.subscribe('broker', 'failing', dead_letter_topic='dead')(handler('failing'))
        app.subscribe('broker', 'dead')(handler('dead'))
        app.subscribe('broker', 'written')(handler('written'))
        # The SDK finds the handlers of declared routes by a topic of that name.
        for route in ('declared', 'declared-special', 'declared-old'):
            app.subscribe('broker', f'/{route}')(handler(route))
        if REDIS:
            app.subscribe('redis', 'python-shared')(handler('shared'))
            app.subscribe('redis', 'python-flaky')(handler('flaky'))
            app.subscribe('redis', 'python-failing-grpc', dead_letter_topic='python-dead-grpc')(handler('redis-failing'))
            app.subscribe('redis', 'python-dead-grpc')(handler('redis-dead'))
            app.subscribe('redis', '/declared-bulk')(handler('declared-bulk'))

        with warnings.catch_warnings(action='ignore', category=DeprecationWarning):

            @app.subscribe('broker', 'legacy')
            def legacy(event):
                self.put('legacy', event.data, event)

        @app.subscribe('broker', 'raising', dead_letter_topic='dead')
        def raising(message: SubscriptionMessage):
            self.put('raising', message.data())
            raise ValueError('not now')

        @app.binding('tick')
        def tick(request: BindingRequest):
            first = not self.on('tick', '')
            self.put('tick', request.data, headers=request.binding_metadata)
            if first:
                raise ValueError('not now')  # which a schedule does not care about

        self.serving = threading.Thread(target=app.run, args=(sidecar.app, '127.0.0.1'))

    @staticmethod
    def attributes(m):
        return {
            **m.extensions(),
            'id': m.id(),
            'source': m.source(),
            'type': m.type(),
            'specversion': m.spec_version(),
            'datacontenttype': m.data_content_type(),
            'topic': m.topic(),
            'pubsubname': m.pubsub_name(),
        }

    def start(self):
        self.serving.start()
        self.await_subscriptions()

    def stop(self):
        self.app.stop()
        self.serving.join()
        self.client.close()
