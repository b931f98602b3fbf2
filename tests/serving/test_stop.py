"""Claims about stopping: what was taken in is answered, and every process is gone."""

from __future__ import annotations

import json
import signal
import threading
import zipfile

import httpx
import numpy as np
import pytest
import yaml

from metavae_serving.errors import ServerFailed
from metavae_serving.torchserve import launch, process, stop
from metavae_serving.torchserve.store import SUMS, sums
from metavae_serving.torchserve.workers import Busy, are_busy
from metavae_zoo.protocol.wire import encode_request

CLIENTS = 6


@pytest.fixture
def earlier_store(store, bundle):
    """A store of an earlier version: fewer settings in its archive, no log4j2.xml."""
    archive = store.path / f"{bundle.card.name}.mar"
    with zipfile.ZipFile(archive) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    configuration = yaml.safe_load(members["model-config.yaml"])
    for newer in ("threads", "precision"):
        del configuration["metavae"][newer]
    members["model-config.yaml"] = yaml.safe_dump(configuration).encode()
    with zipfile.ZipFile(archive, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    (store.path / SUMS).write_text(sums(store.path))
    (store.path / "log4j2.xml").unlink()
    return store


def test_a_server_over_an_earlier_store_answers_what_it_took_in_before_it_stops(
    earlier_store, bundle, rng, until
):
    """Six clients have asked much when it is told to stop; none sees its connection break."""
    store = earlier_store
    images = rng.integers(0, 256, (1000, *bundle.card.image_shape), np.uint8)
    body, headers = encode_request(context=images)
    [worker] = launch.start(store)
    assert worker.ready
    assert (store.log_folder / "model_log.log").exists()
    key = json.loads(store.token_file.read_text())["inference"]["key"]
    headers["Authorization"] = f"Bearer {key}"
    path = f"{store.settings.url}/predictions/{bundle.card.name}"
    answered: list[int] = []

    def ask() -> None:
        answered.append(httpx.post(path, content=body, headers=headers, timeout=60).status_code)

    clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    try:
        for client in clients:
            client.start()
        until(lambda: are_busy(store.run_folder) or bool(answered))
        assert stop.stop(store)
    finally:
        for client in clients:
            client.join()
        if process.running(store.path) is not None:
            process.end(store.path)
    assert answered == [200] * CLIENTS
    with pytest.raises(httpx.TransportError):
        httpx.post(path, content=body, headers=headers)


@pytest.mark.usefixtures("stub_server")
def test_a_server_with_requests_that_wait_is_stopped_when_the_time_is_over(store):
    launch.start(store)
    (store.run_folder / "pending").write_text("1")
    assert not stop.stop(store, drain_seconds=0.3)
    assert process.running(store.path) is None


@pytest.mark.usefixtures("stub_server")
def test_a_server_is_stopped_only_when_its_workers_have_answered(store, until):
    launch.start(store)
    stopped = []
    stopping = threading.Thread(target=lambda: stopped.append(stop.stop(store)))
    with Busy(store.run_folder):
        stopping.start()
        until(lambda: process.require(store.path).is_stopping)
        with pytest.raises(ServerFailed, match="is being stopped"):
            launch.ready(store)
        stopping.join(1.0)
        assert not stopped
    stopping.join()
    assert stopped == [True]


def test_workers_are_busy_until_the_last_has_answered(tmp_path):
    one, other = Busy(tmp_path), Busy(tmp_path)
    with one:
        with other:
            assert are_busy(tmp_path)
        assert are_busy(tmp_path)
    assert not are_busy(tmp_path)
    with Busy(None):
        assert not are_busy(tmp_path)


@pytest.mark.usefixtures("stub_server")
def test_of_two_who_stop_a_server_both_say_that_all_was_answered(store, stub_serve, until):
    launch.start(store)
    with Busy(store.run_folder):  # so that they meet
        both = [stub_serve("stop"), stub_serve("stop")]
        until(lambda: bool((found := process.noted(store.path)) and found.stopping))
    assert [one.communicate(timeout=60)[0] for one in both] == [b"stopped\n"] * 2
    assert [one.returncode for one in both] == [0, 0]
    with pytest.raises(ServerFailed, match="no server runs"):
        stop.stop(store)


@pytest.mark.usefixtures("stub_server")
def test_a_stop_that_ends_late_leaves_the_next_server_alone(store, stub_serve, until):
    launch.start(store)
    late = stub_serve("stop")
    until(lambda: bool((found := process.noted(store.path)) and found.stopping))
    late.send_signal(signal.SIGSTOP)
    stop.stop(store, drain_seconds=0)
    launch.start(store)
    late.send_signal(signal.SIGCONT)
    late.communicate(timeout=60)
    try:
        assert late.returncode == 0
        assert launch.ready(store), "with its tokens"
    finally:
        process.end(store.path)


@pytest.mark.usefixtures("stub_server")
def test_a_stop_that_is_told_to_end_ends_the_server_and_one_that_is_killed_leaves_it(
    store, stub_serve, until
):
    launch.start(store)
    with Busy(store.run_folder):  # as a worker that has something to answer
        for number in (signal.SIGKILL, signal.SIGHUP):
            stopping = stub_serve("stop")
            until(lambda: (found := process.running(store.path)) and found.is_stopping)
            with pytest.raises(ServerFailed, match="is being stopped"):
                launch.ready(store)
            stopping.send_signal(number)
            assert stopping.wait(60) == (-number if number == signal.SIGKILL else 128 + number)
            if number == signal.SIGKILL:
                assert launch.ready(store), "as if nobody had stopped it"
    assert process.running(store.path) is None
    assert not store.token_file.exists()
