"""Claims about stores that somebody has put something into: none is unpacked."""

from __future__ import annotations

import json
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from metavae_serving import contents
from metavae_serving.cli import main
from metavae_serving.configuration import read_settings
from metavae_serving.contents import check_contents
from metavae_serving.errors import BadStore
from metavae_zoo.places import run_folder

MANIFEST = "MAR-INF/MANIFEST.json"


@pytest.fixture
def archive(store, bundle) -> Path:
    return store / f"{bundle.card.name}.mar"


def check(store: Path) -> None:
    check_contents(store, read_settings(store).models)


def members_of(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def rewrite(archive: Path, change: Callable[[zipfile.ZipFile], None], without: str = "") -> None:
    """The archive with what `change` adds to it, and without one of its members."""
    members = members_of(archive)
    with zipfile.ZipFile(archive, "w") as packed:
        for name, content in members.items():
            if name != without:
                packed.writestr(name, content)
        change(packed)


def test_a_store_as_it_was_packed_is_taken_before_and_after_it_was_started(store):
    check(store)
    run_folder(store).mkdir()
    (store / "notes.txt").write_text("which TorchServe does not look at")
    check(store)


def bomb(packed: zipfile.ZipFile) -> None:
    packed.writestr("weights.bin", bytes(50_000_000), zipfile.ZIP_DEFLATED)


def many(packed: zipfile.ZipFile) -> None:
    for number in range(200):
        packed.writestr(f"{number}.txt", b"")


def link(packed: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    packed.writestr(entry, "/etc/passwd")


def named(name: str) -> Callable[[zipfile.ZipFile], None]:
    def add(packed: zipfile.ZipFile) -> None:
        entry = zipfile.ZipInfo("x")
        entry.filename = name  # which its constructor would tidy up
        packed.writestr(entry, b"content")

    return add


def twice(packed: zipfile.ZipFile) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        packed.writestr(MANIFEST, b"{}")


ADDED = {
    "a bomb": (bomb, "weights.bin is compressed, .* bytes that unpack to 50000000"),
    "many members": (many, "members in .*, at most 100"),
    "a symbolic link": (link, "link is no plain file"),
    "a folder": (named("folder/"), "named 'folder/'"),
    "above the folder": (named("../../escape.py"), r"named '\.\./\.\./escape\.py'"),
    "an absolute name": (named("/etc/cron.d/x"), "named '/etc/cron.d/x'"),
    "another system's name": (named("..\\escape.py"), "a member is named"),
    "a hidden name": (named(".hidden"), "named '.hidden'"),
    "a name of two lines": (named("a\nb"), r"named 'a\\nb'"),
    "an endless name": (named("x" * 60_000), "a member is named"),
    "a member twice": (twice, "two members of one name"),
}


@pytest.mark.parametrize(("add", "says"), ADDED.values(), ids=ADDED)
def test_an_archive_with_more_in_it_is_refused_with_one_line(store, archive, add, says):
    rewrite(archive, add)
    done = CliRunner().invoke(main, ["start", "--store", str(store)])
    assert done.exit_code == 1
    assert done.output.count("\n") == 1, done.output
    assert len(done.output) < 1000
    with pytest.raises(BadStore, match=says) as refusal:
        check(store)
    assert str(refusal.value) in done.output
    assert archive.name in done.output
    assert "metavae-serve pack" in done.output
    assert not run_folder(store).exists(), "nothing was started"


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (b"{", "is no archive of ours"),
        (b"[" * 90_000, "names no model"),
        (b"{}", "names no model"),
        (json.dumps({"model": {"modelName": "../../escape"}}).encode(), "'../../escape'"),
        (json.dumps({"model": {"modelName": "another-model"}}).encode(), "'another-model'"),
        (b" " * 200_000, "too large"),
    ],
)
def test_a_manifest_must_name_the_archives_own_model(store, archive, manifest, says):
    rewrite(archive, lambda packed: packed.writestr(MANIFEST, manifest), without=MANIFEST)
    with pytest.raises(BadStore, match=says):
        check(store)


def test_an_archive_without_a_manifest_is_refused(store, archive):
    rewrite(archive, lambda packed: None, without=MANIFEST)
    with pytest.raises(BadStore, match="names no model"):
        check(store)


def hidden_before(content: bytes, extra: bytes) -> bytes:
    """A member before all others, which the directory does not tell of; its offsets are mended."""
    directory = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    records, at = bytearray(content[directory:end]), 0
    while at < len(records):
        name, more, comment = struct.unpack_from("<3H", records, at + 28)
        (offset,) = struct.unpack_from("<I", records, at + 42)
        struct.pack_into("<I", records, at + 42, offset + len(extra))
        at += 46 + name + more + comment
    tail = bytearray(content[end:])
    struct.pack_into("<I", tail, 16, directory + len(extra))
    return extra + content[:directory] + bytes(records) + bytes(tail)


def test_a_member_that_the_directory_does_not_tell_of_is_refused(store, archive, tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as packed:
        packed.writestr("escape.py", b"content")
    other = (tmp_path / "other.zip").read_bytes()
    member = other[: other.index(b"PK\x01\x02")]
    archive.write_bytes(hidden_before(archive.read_bytes(), member))
    assert "escape.py" not in members_of(archive), "a reader of the directory does not see it"
    with pytest.raises(BadStore, match="does not begin where the one before it ends"):
        check(store)


def test_a_name_that_differs_from_the_directorys_is_refused(store, archive):
    with zipfile.ZipFile(archive) as packed:
        at = packed.getinfo("encode.onnx").header_offset + 30
    with archive.open("r+b") as file:
        file.seek(at)
        file.write(b"../enc.onnx")
    with pytest.raises(BadStore, match=r"the header of encode\.onnx and the directory differ"):
        check(store)


def test_more_members_than_the_directorys_end_tells_of_are_refused(store, archive):
    rewrite(archive, many)
    content = bytearray(archive.read_bytes())
    struct.pack_into("<2H", content, len(content) - 14, 5, 5)
    archive.write_bytes(content)
    assert len(members_of(archive)) > 200, "a reader of the directory sees them all"
    with pytest.raises(BadStore, match="members, at most 100"):
        check(store)


def test_a_64_bit_directory_is_refused_before_it_is_read(store, archive, monkeypatch):
    content = archive.read_bytes()
    before, end = content[:-22], content[-22:]
    members, length, start = struct.unpack_from("<H2I", end, 10)
    record = struct.pack(
        "<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, members, members, length, start
    )
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(before), 1)
    archive.write_bytes(before + record + locator + end)
    assert members_of(archive), "a reader takes it"
    monkeypatch.setattr(contents.zipfile, "ZipFile", None)
    with pytest.raises(BadStore, match="does not end as a 32-bit zip file"):
        check(store)


@pytest.mark.parametrize("content", [b"", b"PK", bytes(100), b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_archive_is_refused(store, archive, content):
    archive.write_bytes(content)
    with pytest.raises(BadStore, match=archive.name):
        check(store)


def test_a_file_beyond_all_size_is_not_even_opened(store, archive, monkeypatch):
    os.truncate(archive, 10 * contents._MAX_BYTES)  # which takes no space
    monkeypatch.setattr(contents.zipfile, "ZipFile", None)
    with pytest.raises(BadStore, match="20000000000 bytes, at most 2000000000"):
        check(store)


def test_links_folders_and_strange_archives_beside_the_models_are_refused(store, archive, tmp_path):
    outside = archive.rename(tmp_path / "outside.mar")
    archive.symlink_to(outside)
    with pytest.raises(BadStore, match=f"{archive.name} is a symbolic link to {outside}"):
        check(store)
    archive.unlink()
    with pytest.raises(BadStore, match="No such file"):
        check(store)
    os.mkfifo(archive)
    with pytest.raises(BadStore, match="it is no file"):
        check(store)
    archive.unlink()
    outside.rename(archive)
    for make in (Path.mkdir, Path.touch):
        for name in ("folder", "strange.mar", ".hidden.mar"):
            if (make, name) != (Path.touch, "folder"):
                make(store / name)
                with pytest.raises(BadStore, match=name):
                    check(store)
                (store / name).rmdir() if make is Path.mkdir else (store / name).unlink()
    run_folder(store).symlink_to(tmp_path)
    with pytest.raises(BadStore, match=r"\.run is a symbolic link"):
        check(store)
    run_folder(store).unlink()
    check(store)


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "a b", "UPPER", "a\x00b", "naïve", ""])
def test_a_name_that_is_none_is_an_unknown_model_to_the_command(tmp_path, name):
    done = CliRunner().invoke(main, ["pack", name, "--store", str(tmp_path / "store")])
    assert done.exit_code == 1
    assert "no model" in done.output
    assert done.output.count("\n") == 1
    assert not (tmp_path / "store").exists()
