"""Actors of two instances of one app over HTTP, and of one app on a stream; the client is the sidecar without an app."""

import asyncio
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

import pytest
from actor_app import Interface
from conftest import Sidecar, until
from dapr.actor import ActorId, ActorProxy
from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprHttpError, DaprInternalError

PROGRAM = pathlib.Path(__file__).with_name('actor_app.py')


def call(type_, id_, method, *args):
    async def calling():
        return await getattr(ActorProxy.create(type_, ActorId(id_), Interface), method)(*args)

    return asyncio.run(calling())


class Actors:
    """The types of one app, after the prefix of their names, and an id for actors that no other test uses."""

    def __init__(self, prefix, test):
        self.prefix = prefix
        self.id = test

    def call(self, method, *args, type_='Keeper', id_=None):
        return call(self.prefix + type_, id_ or self.id, method, *args)

    def fails(self, text, method, *args, **of):
        """Checks that a call fails. The error of an actor on a stream is an answer that the SDK takes for one without an error."""
        if self.prefix:
            got = self.call(method, *args, **of)
            assert got['errorCode'] == 'UNKNOWN' and text in got['message']
        else:
            with pytest.raises(DaprInternalError, match=re.escape(text)):
                self.call(method, *args, **of)

    def await_ticks(self, want, **of):
        """Waits for the calls of a timer or of reminders, which are only those so far."""

        def check():
            got = self.call('Ticks', **of)
            assert got == want

        until(check)


@pytest.fixture(scope='module')
def hosts():
    """The programs that host the actors, once the client can call them all."""
    running = {}
    for role, protocol in (('ACTORS_ONE', 'http'), ('ACTORS_TWO', 'http'), ('ACTORS_STREAM', 'stream')):
        running[role] = subprocess.Popen([sys.executable, PROGRAM, role, protocol], stdin=subprocess.PIPE, env={k: v for k, v in os.environ.items() if k != 'APP_PORT'})
    try:

        def ready():
            assert call('StreamedKeeper', 'first', 'Where') == 'ACTORS_STREAM'
            assert {call('Keeper', f'first-{i}', 'Where') for i in range(20)} == {'ACTORS_ONE', 'ACTORS_TWO'}

        until(ready, 30, 0.1)
        yield running
    finally:
        for p in running.values():
            p.kill()
        for p in running.values():
            p.wait()


@pytest.fixture(params=['', 'Streamed'], ids=['http', 'stream'])
def actors(request, hosts):
    return Actors(request.param, request.node.name)


def test_calls(actors):
    assert [actors.call('Add', n) for n in (1, 2, 40)] == [1, 3, 43]
    assert actors.call('Add', 2**53, id_='large ' + actors.id) == 2**53
    assert actors.call('Add', 1, id_='large ' + actors.id) == 2**53 + 1


def test_one_place_each(actors):
    places = {f'{actors.id} {i}': actors.call('Where', id_=f'{actors.id} {i}') for i in range(20)}
    assert set(places.values()) == ({'ACTORS_STREAM'} if actors.prefix else {'ACTORS_ONE', 'ACTORS_TWO'})
    for id_, place in places.items():
        assert actors.call('Where', id_=id_) == place
        assert actors.call('Activations', id_=id_) == 1


def test_one_turn_at_a_time(actors):
    with concurrent.futures.ThreadPoolExecutor(8) as many:
        assert list(many.map(lambda _: actors.call('Turn', {}), range(24))) == [1] * 24


def test_state(actors):
    assert actors.call('Get', 'key') == {'found': False, 'value': None}
    for value in ('text', {'nested': [1, 2.5, None, 'ü']}, 2**60 + 1, [], 'x' * (1 << 20)):
        actors.call('Put', {'key': 'key', 'value': value})
        assert actors.call('Get', 'key') == {'found': True, 'value': value}
    assert actors.call('Get', 'key', id_='another ' + actors.id)['found'] is False
    assert actors.call('Remove', 'key') is True
    assert actors.call('Remove', 'key') is False
    assert actors.call('Get', 'key') == {'found': False, 'value': None}


def test_state_expires(actors):
    actors.call('Put', {'key': 'key', 'value': 'brief', 'ttl': 2})
    actors.call('Put', {'key': 'other', 'value': 'long', 'ttl': 100})
    assert actors.call('Get', 'key') == {'found': True, 'value': 'brief'}

    def gone():
        assert actors.call('Get', 'key') == {'found': False, 'value': None}

    until(gone)
    assert actors.call('Get', 'other') == {'found': True, 'value': 'long'}


def test_failed_turn(actors):
    actors.fails("ValueError('the actor failed')", 'PutAndFail', 'key')
    assert actors.call('Get', 'key') == {'found': False, 'value': None}


def test_no_such_type(hosts):
    with pytest.raises(DaprHttpError) as caught:
        call('Nothing', 'x', 'Where')
    assert (caught.value.status_code, caught.value.error_code) == (500, 'ERR_ACTOR_INVOKE_METHOD')


def test_timers(actors):
    actors.call('StartTimer', {'name': 'once', 'data': {'n': [1]}, 'due': 50, 'period': 0})
    actors.await_ticks([['timer', {'n': [1]}]])
    actors.call('StartTimer', {'name': 'many', 'data': 'again', 'due': 0, 'period': 100}, id_='many ' + actors.id)
    many = {'id_': 'many ' + actors.id}

    def several():
        assert len(actors.call('Ticks', **many)) >= 3

    until(several)
    actors.call('StopTimer', 'many', **many)
    got = actors.call('Ticks', **many)
    assert got == [['timer', 'again']] * len(got)
    actors.call('StartTimer', {'name': 'brief', 'data': 'brief', 'due': 100, 'period': 900, 'ttl': 1500}, **many)
    # Had it no end, or the other not ended, there would be more of them by the time of the last of this one.
    actors.call('StartTimer', {'name': 'last', 'data': 'last', 'due': 2400, 'period': 0}, **many)
    actors.await_ticks(got + [['timer', 'brief']] * 2 + [['timer', 'last']], **many)


def test_reminders(actors):
    actors.call('StartReminder', {'name': 'once', 'data': 'one', 'due': 0})
    actors.await_ticks([['reminder', 'once', 'one']])
    many = {'id_': 'many ' + actors.id}
    actors.call('StartReminder', {'name': 'many', 'data': 'again', 'due': 0, 'period': 200}, **many)

    def several():
        assert len(actors.call('Ticks', **many)) >= 3

    until(several)
    actors.call('StopReminder', 'many', **many)
    got = actors.call('Ticks', **many)
    assert got == [['reminder', 'many', 'again']] * len(got)
    actors.call('StartReminder', {'name': 'last', 'data': '', 'due': 800}, **many)

    def last():
        assert actors.call('Ticks', **many)[-1] == ['reminder', 'last', '']

    until(last)
    assert len(actors.call('Ticks', **many)) <= len(got) + 2  # one may have been on its way


def test_failing_reminders(actors):
    """Of those that fail the first time, the one that may be tried again is called again."""
    actors.call('StartReminder', {'name': 'failing-dropped', 'data': 'x', 'due': 0, 'retries': 0})
    actors.call('StartReminder', {'name': 'failing-again', 'data': 'x', 'due': 50, 'retries': 3})
    actors.call('StartReminder', {'name': 'last', 'data': 'x', 'due': 1000})

    def both():
        assert sorted(actors.call('Ticks')) == [['reminder', 'failing-again', 'x'], ['reminder', 'last', 'x']]

    until(both)


def test_reentrancy(actors):
    a, b = actors.id, 'other ' + actors.id
    assert actors.call('Visit', [b, a], type_='Reentrant') == [a, b, a]
    assert actors.call('Visit', [a], type_='Reentrant') == [a, a]
    actors.fails('maximum stack depth exceeded' if not actors.prefix else '', 'Visit', [a] * 5, type_='Reentrant')
    assert actors.call('Visit', [], type_='Reentrant') == [a]


def test_idle(actors):
    """An idle actor is deactivated, its timers end, and its state and reminders stay."""
    brief = {'type_': 'Brief'}
    actors.call('Add', 5, **brief)
    actors.call('StartTimer', {'name': 'timer', 'data': 'x', 'due': 2500, 'period': 0}, **brief)
    actors.call('StartReminder', {'name': 'reminder', 'data': 'x', 'due': 2500}, **brief)

    def again():
        assert actors.call('Activations', **brief) >= 2

    until(again, pause=0.8)
    assert actors.call('Add', 1, **brief) == 6

    def reminded():
        assert ['reminder', 'reminder', 'x'] in actors.call('Ticks', **brief)

    until(reminded, pause=0.1)


def test_actors_move(hosts):
    """When one of two hosts is gone, its actors go on in the other, with their state and reminders."""
    # Who has which actor is up to chance: of so many some live with the second.
    ids = [f'moving {i}' for i in range(32)]
    moving = [id_ for id_ in ids if call('Keeper', id_, 'Where') == 'ACTORS_TWO'][:4]
    assert moving
    for id_ in moving:
        call('Keeper', id_, 'Add', 7)
        call('Keeper', id_, 'StartReminder', {'name': 'still', 'data': 'x', 'due': 0, 'period': 250})
    with DaprClient(Sidecar('ACTORS_TWO').address) as c:
        c.shutdown()

    def moved():
        for id_ in moving:
            assert call('Keeper', id_, 'Where') == 'ACTORS_ONE'

    until(moved, 20)
    for id_ in moving:
        assert call('Keeper', id_, 'Add', 1) == 8
        before = len(call('Keeper', id_, 'Ticks'))

        def reminded():
            assert len(call('Keeper', id_, 'Ticks')) > before

        until(reminded)
        call('Keeper', id_, 'StopReminder', 'still')
