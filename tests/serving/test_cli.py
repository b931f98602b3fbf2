"""What the commands take from options and environment, and say without starting anything."""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner

from metavae_serving import options
from metavae_serving.cli import main
from metavae_serving.settings import ModelSettings
from metavae_serving.torchserve.configuration import CONFIGURATION
from metavae_serving.torchserve.store import Store


def serve(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, arguments)
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("name", "value", "clash"),
    [
        ("WORKERS", "2", True),
        ("WORKERS", "1", False),
        ("DEVICE", "cuda", True),
        ("DEVICE", "cpu", False),
        ("DEVICE", "auto", False),
    ],
)
def test_workers_and_device_are_decided_when_packing(
    store, settings, monkeypatch, name, value, clash
):
    monkeypatch.setenv(f"METAVAE_{name}", value)
    packed = (store.path / CONFIGURATION).read_bytes()
    with socket.create_server(("127.0.0.1", settings.port)):  # as far as it may get
        code, output = serve("start", "--store", str(store.path))
    assert code == (2 if clash else 1)
    assert ("NAME" if clash else f"port {settings.port}") in output
    assert (store.path / CONFIGURATION).read_bytes() == packed


def test_each_model_can_have_its_own_settings(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("METAVAE_WORKERS", f"2 {bundle.card.name}=3")
    monkeypatch.setenv("METAVAE_DEVICE", "cpu")
    store = tmp_path / "store"
    words = ("--batch-size", "4", "--max-images", f"{bundle.card.name}=77", "--batch-size", "8")
    code, output = serve("pack", str(bundle.path), "--store", str(store), *words)
    assert code == 0, output
    assert Store.open(store).settings.models == {
        bundle.card.name: ModelSettings(workers=3, batch_size=8, max_images=77)
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--workers", "other=2"), "--workers is given for 'other'"),
        (("--workers", "=2"), "names no model"),
        (("--workers", "two"), "not a valid integer"),
        (("--batch-size", "0"), "0 is not in the range"),
        (("--device", "tpu"), "'tpu' is not one of"),
        (("--precision", "bf16"), "'bf16' is not one of"),
        (("--batch-size", "17"), "17408 images, 16384 at most. Lower --batch-size"),
    ],
)
def test_settings_of_models_that_are_none_are_one_clear_error(bundle, tmp_path, words, says):
    code, output = serve("pack", str(bundle.path), "--store", str(tmp_path / "s"), *words)
    assert code == 2
    assert says in output
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("device", [(), ("--device", "cpu")])
def test_tf32_is_refused_on_the_cpu(bundle, tmp_path, monkeypatch, device):
    monkeypatch.setattr(options, "best_device", lambda bundle: "cpu")
    words = ("--precision", f"{bundle.card.name}=tf32", *device)
    code, output = serve("pack", str(bundle.path), "--store", str(tmp_path / "s"), *words)
    assert code == 1
    assert "TF32 was asked for on cpu, and is of CUDA alone" in output
    assert "leave --precision at fp32" in output
    assert not (tmp_path / "s").exists()


def test_an_address_from_the_environment_is_used_and_a_failed_start_writes_nothing(
    store, settings, monkeypatch
):
    monkeypatch.setenv("METAVAE_PORT", str(settings.port))
    monkeypatch.setenv("METAVAE_HOST", "localhost")
    packed = Store.open(store.path).settings
    with socket.create_server(("127.0.0.1", settings.port)):
        assert serve("start", "--store", str(store.path))[0] == 1
    assert Store.open(store.path).settings == packed, "nothing is written before it can start"


@pytest.mark.usefixtures("stub_server")
def test_an_address_that_is_given_is_written_into_the_store(store, settings, monkeypatch):
    monkeypatch.setenv("METAVAE_HOST", "localhost")
    words = ("--port", str(settings.port), "--token-minutes", "7", "--store", str(store.path))
    assert serve("start", *words)[0] == 0
    assert serve("stop", "--store", str(store.path))[0] == 0
    expected = replace(store.settings, host="localhost", token_minutes=7)
    assert Store.open(store.path).settings == expected


@pytest.mark.parametrize("value", ["tcp://10.96.12.3:8080", "not-a-port"])
def test_the_port_of_a_service_of_kubernetes_is_passed_over(bundle, tmp_path, monkeypatch, value):
    monkeypatch.setenv("METAVAE_PORT", value)
    code, output = serve("pack", str(bundle.path), "--store", str(tmp_path / "store"))
    if value.startswith("tcp"):
        assert code == 0, output
        assert Store.open(tmp_path / "store").settings.port == 8080
    else:
        assert code == 2
        assert "'not-a-port' is not a valid integer" in output


@pytest.mark.parametrize(("memory", "code"), [(16e9, 2), (128e9, 0)])
def test_more_workers_than_cores_or_memory_are_told_with_what_they_take(
    bundle, tmp_path, monkeypatch, memory, code
):
    monkeypatch.setattr(options, "usable_cores", lambda: 2)
    monkeypatch.setattr(options, "usable_memory", lambda: int(memory))
    words = ("--workers", "200", "--store", str(tmp_path / "store"))
    found, output = serve("pack", str(bundle.path), *words)
    assert found == code
    assert "200 workers take some 80 GB (400 MB each)" in output
    assert f"{memory / 1e9:.0f} GB and 2 cores. Lower --workers" in output
    assert (tmp_path / "store").exists() == (code == 0)


@pytest.mark.parametrize("host", ["::1", "::", "[::1]", "", "a,b", "a=b", "http://here"])
def test_a_host_that_torchserve_cannot_take_is_one_clear_error(store, host):
    code, output = serve("start", "--store", str(store.path), "--host", host)
    assert code == 1
    assert f"{host!r} is neither an IPv4 address nor a name" in output


@pytest.mark.parametrize(
    "command", [[], ["pack"], ["start"], ["ready"], ["status"], ["logs"], ["stop"]]
)
def test_every_command_has_help(command):
    code, output = serve(*command, "--help")
    assert code == 0
    assert "Usage" in output


BASE_INSTALL = """
import sys
from importlib.abc import MetaPathFinder

MISSING = {"psutil", "yaml", "ts", "model_archiver", "torch", "onnxruntime"}
class Without(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in MISSING else found(name)
from metavae_serving.cli import main
main()
"""


def test_a_base_install_explains_itself_and_says_what_to_install(store, bundle, tmp_path):
    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", BASE_INSTALL, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    for command in ([], ["pack"], ["start"], ["ready"], ["stop"]):
        assert call(*command, "--help").returncode == 0
    commands = (["pack", bundle.path], ["start"])
    for command in commands:
        done = call(*command, "--store", tmp_path / "new" if command[0] == "pack" else store.path)
        assert done.returncode == 1
        assert "pip install -e '.[serve]'" in done.stderr
        assert len(done.stderr.splitlines()) == 1
