"""Jobs of an app of the SDK's gRPC extension."""

import threading

import grpc
import pytest
from conftest import Sidecar, until
from dapr.clients import ConstantFailurePolicy, DaprClient, DropFailurePolicy, Job
from dapr.clients.exceptions import DaprGrpcError
from dapr.ext.grpc import App, JobEvent
from google.protobuf.any_pb2 import Any

NAMES = ('once', 'empty', 'repeated', 'failing-again', 'failing-dropped')


class JobApp:
    """What the app has got for each job, and a client of its sidecar."""

    def __init__(self, client):
        self.client = client
        self.got = {name: [] for name in NAMES}

    def take(self, event: JobEvent):
        calls = self.got[event.name]
        calls.append(event.get_data_as_string())
        if event.name.startswith('failing') and len(calls) == 1:
            raise ValueError('not now')

    def wait(self, name, *want):
        def check():
            assert self.got[name] == list(want)

        until(check)

    def await_gone(self, name):
        def check():
            try:
                job = self.client.get_job(name)
            except DaprGrpcError as error:
                return error
            raise AssertionError(f'the job is still there: {job}')

        error = until(check)
        assert (error.code(), error.error_code()) == (grpc.StatusCode.NOT_FOUND, 'DAPR_SCHEDULER_GET_JOB')


@pytest.fixture(scope='module')
def jobs():
    sidecar = Sidecar('JOBS_GRPC')
    app = App()
    with DaprClient(sidecar.address) as client:
        jobs = JobApp(client)
        for name in NAMES:
            app.job_event(name)(jobs.take)
        serving = threading.Thread(target=app.run, args=(sidecar.app, '127.0.0.1'))
        serving.start()
        yield jobs
        app.stop()
        serving.join()


def test_once(jobs):
    jobs.client.schedule_job(Job('once', due_time='0s', data=Any(value=b'{"n": 1}')))
    jobs.client.schedule_job(Job('empty', due_time='0s'))
    jobs.wait('once', '{"n": 1}')
    jobs.wait('empty', '')
    jobs.await_gone('once')


def test_repeated(jobs):
    jobs.client.schedule_job(Job('repeated', schedule='@every 200ms', repeats=3, data=Any(value=b'again')))
    jobs.await_gone('repeated')
    assert jobs.got['repeated'] == ['again'] * 3


def test_kept(jobs):
    jobs.client.schedule_job(Job('kept', schedule='@hourly', due_time='1h', ttl='10h', repeats=4, data=Any(value=b'data'), failure_policy=ConstantFailurePolicy(5, 3)))
    job = jobs.client.get_job('kept')
    assert (job.name, job.schedule, job.due_time, job.ttl, job.repeats, job.data.value) == ('kept', '@hourly', '1h', '10h', 4, b'data')
    assert (job.failure_policy.max_retries, job.failure_policy.interval_seconds) == (5, 3)
    with pytest.raises(DaprGrpcError) as caught:
        jobs.client.schedule_job(Job('kept', schedule='@daily'))
    assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
    jobs.client.schedule_job(Job('kept', schedule='@daily'), overwrite=True)
    assert jobs.client.get_job('kept').schedule == '@daily'
    jobs.client.delete_job('kept')
    jobs.await_gone('kept')


def test_failing(jobs):
    jobs.client.schedule_job(Job('failing-again', due_time='0s', failure_policy=ConstantFailurePolicy(3, 0)))
    jobs.client.schedule_job(Job('failing-dropped', due_time='0s', failure_policy=DropFailurePolicy()))
    jobs.wait('failing-again', '', '')
    jobs.await_gone('failing-again')
    jobs.await_gone('failing-dropped')
    assert jobs.got['failing-dropped'] == ['']


def test_refused(jobs):
    with pytest.raises(DaprGrpcError, match='often') as caught:
        jobs.client.schedule_job(Job('refused', schedule='often'))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
