"""Claims about stores that somebody has put something into: none is unpacked."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from metavae_serving.cli import main
from metavae_serving.errors import BadStore
from metavae_serving.torchserve import store as contents
from metavae_serving.torchserve.configuration import CONFIGURATION
from metavae_serving.torchserve.store import SUMS, Store


@pytest.fixture
def archive(store, bundle) -> Path:
    return store.path / f"{bundle.card.name}.mar"


def test_a_store_as_it_was_packed_is_taken_before_and_after_it_was_started(store):
    store.check()
    store.run_folder.mkdir()
    (store.path / "notes.txt").write_text("which TorchServe does not look at")
    store.check()


def other_code(archive: Path) -> None:
    """The handler that TorchServe runs, by another one."""
    with zipfile.ZipFile(archive) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    with zipfile.ZipFile(archive, "w") as packed:
        for name, content in members.items():
            packed.writestr(name, b"print(1)" if name.endswith(".py") else content)


def escape(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr("../../escape.py", b"content")


def bomb(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr("weights.bin", bytes(50_000_000), zipfile.ZIP_DEFLATED)


def one_bit(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)


def empty(archive: Path) -> None:
    archive.write_bytes(b"")


@pytest.mark.parametrize("change", [other_code, escape, bomb, one_bit, empty])
def test_an_archive_that_was_changed_is_refused_with_one_line_and_not_opened(
    store, archive, change, monkeypatch
):
    change(archive)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    done = CliRunner().invoke(main, ["start", "--store", str(store.path)])
    assert done.exit_code == 1
    assert done.output.count("\n") == 1, done.output
    assert f"{archive.name} has changed since it was packed" in done.output
    assert "metavae-serve pack" in done.output
    assert not store.run_folder.exists(), "nothing was started"


def test_a_file_beyond_all_size_is_not_even_read(store, archive):
    os.truncate(archive, 10 * contents._MAX_BYTES)  # which takes no space
    with pytest.raises(BadStore, match="20000000000 bytes, at most 2000000000"):
        store.check()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: "", "says nothing of it"),
        (lambda text: text.replace(".mar", ".mar2"), "says nothing of it"),
        (lambda text: "0" * 64 + text[64:], "says 000000000000"),
        (lambda text: text + "# a remark\n", "lines that are no sha256"),
        (lambda text: text * 20_000, "at most 1000000 are read"),
    ],
)
def test_sums_that_do_not_vouch_for_the_archive_are_refused(store, archive, change, says):
    sums = store.path / SUMS
    sums.write_text(change(sums.read_text()))
    with pytest.raises(BadStore, match=says):
        store.check()


def test_a_store_without_sums_is_to_be_packed_again(store):
    (store.path / SUMS).unlink()
    with pytest.raises(BadStore, match=r"No such file.*SHA256SUMS.*metavae-serve pack"):
        store.check()


def test_settings_that_were_edited_beyond_their_range_are_refused(store):
    configuration = store.path / CONFIGURATION
    packed = configuration.read_text()
    configuration.write_text(packed.replace('"workers":1', '"workers":1000', 1))
    with pytest.raises(BadStore, match="less than or equal to 256"):
        Store.open(store.path)


def replaced_by_a_link(path: Path, outside: Path) -> None:
    path.rename(outside)
    path.symlink_to(outside)


def replaced_by_a_pipe(path: Path, outside: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def removed(path: Path, outside: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (replaced_by_a_link, "{name} is a symbolic link to "),
        (replaced_by_a_pipe, "{name} is no file"),
        (removed, "No such file or directory: .*{name}"),
    ],
)
@pytest.mark.parametrize("what", ["archive", "sums"])
def test_a_file_of_the_store_must_be_there_itself(store, archive, tmp_path, what, change, says):
    path = archive if what == "archive" else store.path / SUMS
    change(path, tmp_path / "outside")
    with pytest.raises(BadStore, match=says.format(name=path.name)):
        store.check()


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
@pytest.mark.parametrize("name", ["folder", "strange.mar", ".hidden.mar", "old.model"])
def test_what_torchserve_would_serve_beside_the_models_is_refused(
    store: Store, make: Callable[[Path], None], name
):
    if (make, name) == (Path.touch, "folder"):
        pytest.skip("a file without an ending is nothing to TorchServe")
    make(store.path / name)
    with pytest.raises(BadStore, match=name):
        store.check()


def test_a_run_folder_that_is_a_link_is_refused(store, tmp_path):
    store.run_folder.symlink_to(tmp_path)
    with pytest.raises(BadStore, match=r"\.run is a symbolic link"):
        store.check()


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "a b", "UPPER", "a\x00b", "naïve", ""])
def test_a_name_that_is_none_is_an_unknown_model_to_the_command(tmp_path, name):
    done = CliRunner().invoke(main, ["pack", name, "--store", str(tmp_path / "store")])
    assert done.exit_code == 1
    assert "no model" in done.output
    assert done.output.count("\n") == 1
    assert not (tmp_path / "store").exists()
