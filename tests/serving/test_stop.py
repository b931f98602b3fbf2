"""Claims about stopping under load: what was taken in is answered, the rest is sent away."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading

import httpx
import numpy as np
import pytest

from metavae_serving.errors import ServerFailed
from metavae_serving.torchserve import drain, launch, process, stop
from metavae_serving.torchserve.configuration import read_settings
from metavae_serving.torchserve.drain import Gate
from metavae_zoo.places import run_folder, token_file
from metavae_zoo.protocol.errors import Draining
from metavae_zoo.protocol.wire import encode_request

CLIENTS = 6


def test_a_server_that_is_stopped_under_load_answers_what_it_took_in(store, bundle, rng, until):
    """Six clients ask without a pause; none may see its connection break."""
    images = rng.integers(0, 256, (600, *bundle.card.image_shape), np.uint8)
    body, headers = encode_request(context=images)
    launch.start(store)
    settings = read_settings(store)
    key = json.loads(token_file(store).read_text())["inference"]["key"]
    headers["Authorization"] = f"Bearer {key}"
    answered: list[httpx.Response] = []
    broken: list[httpx.HTTPError] = []

    def ask() -> None:
        with httpx.Client(base_url=settings.url, headers=headers, timeout=60) as http:
            try:
                while not answered or answered[-1].status_code == 200:
                    answered.append(http.post(f"/predictions/{bundle.card.name}", content=body))
            except httpx.HTTPError as error:
                broken.append(error)

    clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    try:
        for client in clients:
            client.start()
        until(lambda: len(answered) > 2 * CLIENTS)
        assert stop.stop(store)
    finally:
        for client in clients:
            client.join()
        if process.running(store) is not None:
            process.end(store)

    assert all(isinstance(error, httpx.ConnectError) for error in broken), broken
    assert {answer.status_code for answer in answered} == {200, 503}
    for answer in answered:
        if answer.status_code == 503:
            assert answer.headers["Retry-After"] == str(Draining.retry_after)
            assert answer.json()["code"] == "draining"


def test_a_server_that_another_has_stopped_meanwhile_is_stopped(store, monkeypatch):
    launch.start(store)

    def drain_and_stop(store, seconds):
        process.end(store)
        return True

    monkeypatch.setattr(stop, "_drain", drain_and_stop)
    assert stop.stop(store)
    with pytest.raises(ServerFailed, match="no server runs"):
        stop.stop(store)


def test_a_gate_lets_through_as_many_as_were_waiting(tmp_path):
    gate, other = Gate(tmp_path, "model"), Gate(tmp_path, "model")
    with gate.admitting(3) as admitted:
        assert admitted == 3, "open until it is closed"
    found = []
    with drain.stopping(tmp_path):
        drain.close(tmp_path, {"model": 5, "another": 9})
        for one, requests in ((gate, 2), (other, 2), (gate, 2), (other, 2)):
            with one.admitting(requests) as admitted:
                found.append(admitted)
    assert found == [2, 2, 1, 0]
    assert drain.left(tmp_path) == {"model": 0, "another": 9}
    drain.reopen(tmp_path)
    with gate.admitting(7) as admitted:
        assert admitted == 7


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": "1"}'])
def test_a_gate_whose_folder_is_gone_or_damaged_is_open(tmp_path, content):
    (tmp_path / "drain.json").write_text(content)
    with drain.stopping(tmp_path):
        for folder in (tmp_path, tmp_path / "gone", None):
            with Gate(folder, "model").admitting(2) as admitted:
                assert admitted == 2


def test_the_server_is_idle_once_no_worker_answers(tmp_path):
    gate = Gate(tmp_path, "model")
    with gate.admitting(1):
        assert not drain.idle(tmp_path)
    assert drain.idle(tmp_path)
    with drain.stopping(tmp_path):
        drain.close(tmp_path, {"model": 0})
        with gate.admitting(1) as admitted:
            assert admitted == 0
            assert drain.idle(tmp_path), "a request that is sent away is nothing to wait for"


def test_a_gate_is_open_again_where_whoever_closed_it_was_killed(tmp_path):
    gate = Gate(tmp_path, "model")
    with drain.stopping(tmp_path):
        drain.close(tmp_path, {"model": 0})
        assert drain.is_stopped(tmp_path)
        with pytest.raises(BlockingIOError), drain.stopping(tmp_path):
            pass
        with gate.admitting(3) as admitted:
            assert admitted == 0
    assert not drain.is_stopped(tmp_path)
    with gate.admitting(3) as admitted:
        assert admitted == 3


def test_of_two_who_stop_a_server_both_say_that_all_was_answered(store, bundle, until):
    launch.start(store)
    command = [sys.executable, "-m", "metavae_serving.cli", "stop", "--store", str(store)]
    with Gate(run_folder(store), bundle.card.name).admitting(1):  # so that they meet
        first = subprocess.Popen(command, stdout=subprocess.PIPE)
        until(lambda: drain.is_stopped(run_folder(store)))
        second = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert [one.communicate(timeout=60)[0] for one in (first, second)] == [b"stopped\n"] * 2
    assert (first.returncode, second.returncode) == (0, 0)


def test_a_stop_that_ends_late_leaves_the_next_server_alone(store, until):
    launch.start(store)
    command = [sys.executable, "-m", "metavae_serving.cli", "stop", "--store", str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as late:
        until(lambda: drain.is_stopped(run_folder(store)))
        late.send_signal(signal.SIGSTOP)
        stop.stop(store, drain_seconds=0)
        launch.start(store)
        late.send_signal(signal.SIGCONT)
        late.communicate(timeout=60)
    try:
        assert late.returncode == 0
        assert launch.ready(store), "with its tokens"
    finally:
        process.end(store)


def test_a_stop_that_is_told_to_end_ends_the_server_and_one_that_is_killed_leaves_it(
    store, bundle, until
):
    """Both while the server drains, for which something is kept waiting."""
    launch.start(store)
    command = [sys.executable, "-m", "metavae_serving.cli", "stop", "--store", str(store)]
    held = Gate(run_folder(store), bundle.card.name)
    with held.admitting(1):  # as a worker that has something to answer
        for number in (signal.SIGKILL, signal.SIGHUP):
            stopping = subprocess.Popen(
                command, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)
            )
            until(lambda: drain.is_stopped(run_folder(store)))
            with pytest.raises(ServerFailed, match="is being stopped"):
                launch.ready(store)
            stopping.send_signal(number)
            assert stopping.wait(60) == (-number if number == signal.SIGKILL else 128 + number)
            if number == signal.SIGKILL:
                assert launch.ready(store), "as if nobody had stopped it"
                with Gate(run_folder(store), bundle.card.name).admitting(2) as admitted:
                    assert admitted == 2
    assert process.running(store) is None
    assert not token_file(store).exists()


def test_a_program_error_while_answering_is_not_taken_for_a_folder_that_is_gone(tmp_path):
    with pytest.raises(OSError, match="disk"), Gate(tmp_path, "model").admitting(1):
        raise OSError("disk")
