from __future__ import annotations

import errno
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from metavae_serving.errors import BadStore, ServerFailed
from metavae_serving.settings import ModelSettings, Settings
from metavae_serving.torchserve import archive, configuration, launch, process
from metavae_serving.torchserve.archive import bundle_of, pack
from metavae_serving.torchserve.configuration import (
    CONFIGURATION,
    LOGGING,
    METRICS,
    properties,
)
from metavae_serving.torchserve.store import SUMS, Store
from metavae_zoo.bundles.bundle import Bundle, open_bundle
from metavae_zoo.errors import BadBundle, UnknownName
from metavae_zoo.places import log_folder, run_folder, token_file
from metavae_zoo.protocol.wire import MAX_REPLY_BYTES, MAX_REQUEST_BYTES


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


def changed_copy(bundle: Bundle, folder: Path, **changes: object) -> Bundle:
    """The bundle under another name, in `folder`."""
    folder.mkdir()
    for file in bundle.files:
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "card.json").write_text(bundle.card.model_copy(update=changes).to_json())
    return open_bundle(folder)


def test_a_store_holds_each_model_byte_for_byte_and_the_configuration(bundle, tmp_path):
    other = changed_copy(bundle, tmp_path / "other", name="another-model")
    store = tmp_path / "a store, of mine"
    pack([bundle, other], store, Settings())
    assert Store.open(store).models == sorted([bundle.card.name, "another-model"])
    assert sorted(path.name for path in store.iterdir()) == sorted(
        [f"{bundle.card.name}.mar", "another-model.mar", CONFIGURATION, METRICS, LOGGING, SUMS]
    )
    with zipfile.ZipFile(store / f"{bundle.card.name}.mar") as packed:
        for file in bundle.files:
            assert packed.read(file.name) == file.read_bytes()


def test_the_configuration_keeps_the_server_to_itself(tmp_path):
    settings = Settings(host="192.0.2.1", port=9000)
    lines = dict(
        line.split("=", 1)
        for line in properties(tmp_path / "s,t=o", settings).splitlines()
        if not line.startswith("#")
    )
    assert lines["inference_address"] == "http://192.0.2.1:9000"
    assert lines["management_address"] == "http://127.0.0.1:9001"
    assert lines["metrics_address"] == "http://127.0.0.1:9002"
    assert lines["grpc_inference_address"] == lines["grpc_management_address"] == "127.0.0.1"
    assert lines["disable_token_authorization"] == lines["enable_model_api"] == "false"
    assert lines["allowed_urls"] == "none"
    assert int(lines["max_request_size"]) >= MAX_REQUEST_BYTES
    assert int(lines["max_response_size"]) > MAX_REPLY_BYTES


@pytest.mark.parametrize(
    ("gigabytes", "models", "expected"),
    [(0.5, 1, 8), (4, 1, 25), (4, 2, 12), (16, 1, 100), (16, 5, 20), (64, 1, 100), (64, 0, 100)],
)
def test_so_many_requests_may_wait_as_there_is_memory_for(
    tmp_path, monkeypatch, gigabytes, models, expected
):
    monkeypatch.setattr(configuration, "usable_memory", lambda: int(gigabytes * 1e9))
    settings = Settings(models={f"model-{number}": ModelSettings() for number in range(models)})
    lines = properties(tmp_path, settings).splitlines()
    assert f"job_queue_size={expected}" in lines
    (options,) = (line for line in lines if line.startswith("vmargs="))
    quarter = f"{int(gigabytes * 1e9 / 4) >> 20}m"
    assert f"-Xmx{quarter} " in options
    assert f"-XX:MaxDirectMemorySize={quarter} " in options
    assert "-Dio.netty.allocator.type=unpooled " in options


def test_every_property_is_one_that_torchserve_knows(tmp_path):
    """It ignores a name that it does not know without a word."""
    import ts.model_server

    jar = Path(ts.__file__).parent / "frontend" / "model-server.jar"
    with zipfile.ZipFile(jar) as packed:
        known = packed.read("org/pytorch/serve/util/ConfigManager.class")
    known += Path(ts.model_server.__file__).read_bytes()  # which reads some before Java starts
    for line in properties(tmp_path, Settings()).splitlines():
        if not line.startswith("#"):
            assert line.split("=")[0].encode() in known


def test_settings_are_read_as_they_were_packed_and_can_be_changed(bundle, tmp_path):
    ours = ModelSettings(workers=2, batch_size=8, max_batch_delay=3, max_images=100)
    settings = Settings(port=9100, token_minutes=5, models={bundle.card.name: ours})
    store = tmp_path / "store"
    pack([bundle], store, settings)
    assert Store.open(store).settings == settings
    Store.open(store).configured(replace(settings, port=9200))
    assert Store.open(store).settings.port == 9200
    assert Store.open(store).models == [bundle.card.name]


def test_a_configuration_that_a_killed_command_half_wrote_is_no_obstacle(bundle, tmp_path):
    store = pack([bundle], tmp_path / "store", Settings())
    (store.path / f".{CONFIGURATION}-1a2b3c4d").touch()
    store.check()
    store = pack([bundle], store.path, Settings(port=9200))
    assert len(list(store.path.iterdir())) == 5


def test_a_store_that_was_moved_is_configured_for_its_new_place(bundle, tmp_path):
    store = pack([bundle], tmp_path / "store", Settings())
    moved = tmp_path / "moved"
    store.path.rename(moved)
    (moved / LOGGING).unlink()
    Store.open(moved).configured(Settings(models=store.settings.models))
    assert f"metrics_config={moved / METRICS}" in (moved / CONFIGURATION).read_text()
    assert (moved / LOGGING).exists()


@pytest.mark.parametrize("content", ["", "[" * 100_000, "inference_address=http://127.0.0.1:8080"])
def test_a_damaged_configuration_is_told_with_what_packing_would_take(bundle, tmp_path, content):
    store = tmp_path / "store"
    pack([bundle], store, Settings())
    first, _, rest = (store / CONFIGURATION).read_text().partition("{")
    (store / CONFIGURATION).write_text(f"{first}{content}\n{rest}" if "[[" in content else content)
    with pytest.raises(BadStore, match=r"Move it away\. Make one: `metavae-serve pack"):
        Store.open(store)
    with pytest.raises(BadStore, match="no model store of metavae-serve"):
        pack([bundle], store, Settings())


def test_packing_again_replaces_the_store_and_leaves_nothing_beside_it(bundle, tmp_path):
    store = tmp_path / "store"
    pack([changed_copy(bundle, tmp_path / "other", name="other")], store, Settings())
    run_folder(store).mkdir()
    pack([bundle], store, Settings())
    assert Store.open(store).models == [bundle.card.name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "store"]


def test_packing_again_keeps_the_logs_of_the_server_before(bundle, tmp_path):
    store = tmp_path / "store"
    pack([bundle], store, Settings())
    log_folder(store).mkdir(parents=True)
    (log_folder(store) / "model_log.log").write_text("what it crashed on")
    token_file(store).write_text("its tokens")
    pack([bundle], store, Settings())
    assert (log_folder(store) / "model_log.log").read_text() == "what it crashed on"
    assert not token_file(store).exists()
    assert run_folder(store).stat().st_mode & 0o077 == 0


def test_a_store_that_another_command_is_starting_is_not_replaced(bundle, tmp_path):
    store = tmp_path / "store"
    pack([bundle], store, Settings())
    before = content_of(store)
    with process.starting(store):
        with pytest.raises(ServerFailed, match="another command is packing"):
            pack([bundle], store, Settings())
        with pytest.raises(ServerFailed, match="or starting a server over it"):
            launch.start(Store.open(store))
    assert content_of(store) == before
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_full_disk_leaves_the_earlier_store_as_it_was(bundle, tmp_path, monkeypatch):
    store = tmp_path / "store"
    pack([bundle], store, Settings())
    before = content_of(store)
    archive_one = archive._archive

    def full_after_one(bundle: Bundle, folder: Path, settings: ModelSettings) -> None:
        archive_one(bundle, folder, settings)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archive, "_archive", full_after_one)
    with pytest.raises(BadStore, match="No space left on device"):
        pack([bundle], store, Settings(port=9999))
    assert content_of(store) == before
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_an_archiver_that_cannot_write_leaves_no_store(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(archive.sys, "executable", "/bin/false")
    with pytest.raises(BadStore, match="archiver"):
        pack([bundle], tmp_path / "store", Settings())
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_made_is_one_clear_error(bundle, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(BadStore, match="--store"):
        pack([bundle], tmp_path / "file" / "store", Settings())
    with pytest.raises(BadStore, match="--store"):
        pack([bundle], tmp_path / "file", Settings())


def test_a_folder_that_holds_anything_else_is_not_replaced(bundle, tmp_path):
    theirs = tmp_path / "home" / "thesis.txt"
    theirs.parent.mkdir()
    theirs.write_text("years of work")
    with pytest.raises(BadStore, match="not empty"):
        pack([bundle], theirs.parent, Settings())
    assert theirs.read_text() == "years of work"
    store = tmp_path / "store"
    pack([bundle], store, Settings())
    (store / "thesis.txt").write_text("years of work")
    with pytest.raises(BadStore, match=r"thesis\.txt"):
        pack([bundle], store, Settings())
    assert (store / "thesis.txt").exists()


def test_a_model_store_of_others_is_not_replaced(bundle, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / CONFIGURATION).write_text("inference_address=http://127.0.0.1:9999\n")
    (theirs / "resnet50.mar").write_text("their model")
    with pytest.raises(BadStore, match="no model store of metavae-serve"):
        pack([bundle], theirs, Settings())
    store = tmp_path / "store"
    pack([bundle], store, Settings())
    (store / "resnet50.mar").write_text("their model")
    with pytest.raises(BadStore, match=r"resnet50\.mar"):
        pack([bundle], store, Settings())
    assert (theirs / "resnet50.mar").read_text() == "their model"
    assert (store / "resnet50.mar").exists()


@pytest.mark.parametrize("name", ["two\nlines", "tab\t", "\udcff"])
def test_a_path_that_a_configuration_cannot_hold_is_refused(bundle, tmp_path, name):
    with pytest.raises(BadStore, match="cannot be printed"):
        pack([bundle], tmp_path / name, Settings())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["\U0001f600", "a${sys:user.name}"])
def test_a_path_that_torchserve_would_take_for_another_is_refused(bundle, tmp_path, name):
    with pytest.raises(BadStore, match="which TorchServe cannot have in it"):
        pack([bundle], tmp_path / name, Settings())
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_model_is_refused_by_name():
    with pytest.raises(UnknownName, match="nothing-like-this"):
        bundle_of("nothing-like-this")


def test_a_path_names_a_bundle_too(bundle, tmp_path):
    assert bundle_of(str(bundle.path)).card == bundle.card
    with pytest.raises(BadBundle, match=r"card\.json"):
        bundle_of(str(tmp_path))


def test_a_changed_bundle_is_not_packed(bundle, tmp_path):
    copy = changed_copy(bundle, tmp_path / "copy")
    encoder = copy.path / "encode.onnx"
    encoder.write_bytes(encoder.read_bytes()[:-1] + b"\x00")
    with pytest.raises(BadBundle, match="changed"):
        bundle_of(str(copy.path))
