"""An app that hosts actors. It is a program of its own, for the SDK has one actor runtime in a process:

    python actor_app.py ROLE http|stream

The sidecar of the role calls the actors over HTTP, or on the stream that the app opens to it. The app ends with its input, and so with
the program that started it.
"""

import asyncio
import os
import sys
import threading
from datetime import timedelta

from dapr.actor import Actor, ActorId, ActorInterface, ActorProxy, Remindable, actormethod
from dapr.actor.runtime.config import ActorReentrancyConfig, ActorRuntimeConfig, ActorTypeConfig
from dapr.actor.runtime.failure_policy import ActorReminderFailurePolicy
from dapr.actor.runtime.runtime import ActorRuntime
from dapr.conf import settings


class Interface(ActorInterface):
    @actormethod(name='Where')
    async def where(self) -> str: ...

    @actormethod(name='Add')
    async def add(self, n: int) -> int: ...

    @actormethod(name='Put')
    async def put(self, entry: dict) -> None: ...

    @actormethod(name='Get')
    async def get(self, key: str) -> dict: ...

    @actormethod(name='Remove')
    async def remove(self, key: str) -> bool: ...

    @actormethod(name='PutAndFail')
    async def put_and_fail(self, key: str) -> None: ...

    @actormethod(name='Turn')
    async def turn(self, _: object) -> int: ...

    @actormethod(name='Ticks')
    async def ticks(self) -> list: ...

    @actormethod(name='StartTimer')
    async def start_timer(self, timer: dict) -> None: ...

    @actormethod(name='StopTimer')
    async def stop_timer(self, name: str) -> None: ...

    @actormethod(name='StartReminder')
    async def start_reminder(self, reminder: dict) -> None: ...

    @actormethod(name='StopReminder')
    async def stop_reminder(self, name: str) -> None: ...

    @actormethod(name='Visit')
    async def visit(self, route: list) -> list: ...

    @actormethod(name='Activations')
    async def activations(self) -> int: ...


def milliseconds(n):
    return None if n is None else timedelta(milliseconds=n)


class Base(Actor, Interface, Remindable):
    """Keeps a sum, entries and what its timers and reminders have called it with."""

    host = ''

    def __init__(self, ctx, actor_id):
        super().__init__(ctx, actor_id)
        self.turns = 0
        self.failed = set()

    async def _on_activate(self):
        await self._state_manager.add_or_update_state('activations', 1, lambda _, old: old + 1)

    async def activations(self):
        return await self._state_manager.get_state('activations')

    async def where(self):
        return self.host

    async def add(self, n):
        return await self._state_manager.add_or_update_state('sum', n, lambda _, old: old + n)

    async def put(self, entry):
        if entry.get('ttl'):
            await self._state_manager.set_state_ttl(entry['key'], entry['value'], entry['ttl'])
        else:
            await self._state_manager.set_state(entry['key'], entry['value'])

    async def get(self, key):
        await self._state_manager.clear_cache()
        found, value = await self._state_manager.try_get_state(key)
        return {'found': found, 'value': value}

    async def remove(self, key):
        return await self._state_manager.try_remove_state(key)

    async def put_and_fail(self, key):
        await self._state_manager.set_state(key, 'never seen')
        raise ValueError('the actor failed')

    async def turn(self, _):
        """How many turns of this actor run at a time."""
        self.turns += 1
        await asyncio.sleep(0.01)
        most = self.turns
        self.turns -= 1
        return most

    async def ticks(self):
        found, ticks = await self._state_manager.try_get_state('ticks')
        return ticks if found else []

    async def tick(self, *what):
        await self._state_manager.set_state('ticks', await self.ticks() + [list(what)])

    async def start_timer(self, timer):
        await self.register_timer(timer['name'], self.on_timer, timer['data'], milliseconds(timer['due']), milliseconds(timer['period']), milliseconds(timer.get('ttl')))

    async def stop_timer(self, name):
        await self.unregister_timer(name)

    async def on_timer(self, data):
        await self.tick('timer', data)

    async def start_reminder(self, reminder):
        retries = reminder.get('retries')
        policy = None if retries is None else ActorReminderFailurePolicy.constant_policy(interval=milliseconds(20), max_retries=retries) if retries else ActorReminderFailurePolicy.drop_policy()
        await self.register_reminder(
            reminder['name'], reminder['data'].encode(), milliseconds(reminder['due']), milliseconds(reminder.get('period')), milliseconds(reminder.get('ttl')), policy
        )

    async def stop_reminder(self, name):
        await self.unregister_reminder(name)

    async def receive_reminder(self, name, state, due_time, period, ttl=None):
        if name.startswith('failing') and name not in self.failed:
            self.failed.add(name)
            raise ValueError('not now')
        await self.tick('reminder', name, state.decode())

    async def visit(self, route):
        """Calls the first actor of a route with the rest of it, and returns who was called."""
        if not route:
            return [self.id.id]
        next_one = ActorProxy.create(type(self).__name__, ActorId(route[0]), Interface)
        return [self.id.id] + await next_one.Visit(route[1:])


def types(prefix):
    """The types that an app hosts: Keeper, Reentrant and Brief, after a prefix that tells those of one app from those of another.

    Reentrant can be called by those whom it calls, three calls deep. Brief is deactivated once it was idle for a moment.
    """
    _, reentrant, brief = hosted = [type(prefix + n, (Base, Interface, Remindable), {}) for n in ('Keeper', 'Reentrant', 'Brief')]
    ActorRuntime.set_actor_config(
        ActorRuntimeConfig(
            actor_idle_timeout=timedelta(minutes=10),
            actor_scan_interval=timedelta(seconds=30),
            drain_ongoing_call_timeout=timedelta(seconds=5),
            drain_rebalanced_actors=True,
            actor_type_configs=[
                ActorTypeConfig(reentrant.__name__, reentrancy=ActorReentrancyConfig(enabled=True, maxStackDepth=3)),
                ActorTypeConfig(brief.__name__, actor_idle_timeout=timedelta(milliseconds=300), actor_scan_interval=timedelta(milliseconds=100)),
            ],
        )
    )
    return hosted


async def over_http(port):
    import fastapi
    import uvicorn
    from dapr.ext.fastapi import DaprActor

    app = fastapi.FastAPI()
    actors = DaprActor(app)
    for t in types(''):
        await actors.register_actor(t)
    await uvicorn.Server(uvicorn.Config(app, host='127.0.0.1', port=port, log_level='error', lifespan='off')).serve()


async def over_a_stream(port):
    from dapr.actor.runtime.grpc_host import ActorGrpcHost

    host = ActorGrpcHost(app_port=port)
    for t in types('Streamed'):
        await host.register_actor(t)
    await host.run_forever()


def end_with_input():
    sys.stdin.read()
    os._exit(0)


if __name__ == '__main__':
    threading.Thread(target=end_with_input, daemon=True).start()
    role, protocol = sys.argv[1:]
    settings.DAPR_HTTP_PORT = os.environ[f'SDK_{role}_HTTP_PORT']
    settings.DAPR_GRPC_PORT = os.environ[f'SDK_{role}_GRPC_PORT']
    Base.host = role
    asyncio.run({'http': over_http, 'stream': over_a_stream}[protocol](int(os.environ[f'SDK_{role}_APP_PORT'])))
