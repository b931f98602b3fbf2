"""Claims about the index: from a name to a verified bundle, from here or from an address."""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.server
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from metavae_zoo.bundles import index
from metavae_zoo.bundles.bundle import CARD, copy_bundle, open_bundle, sha256_of
from metavae_zoo.cli import main
from metavae_zoo.errors import BadBundle, UnknownName


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """An empty zoo of the user's, no shipped models, and an index of none."""
    (tmp_path / "empty.json").write_text('{"models": {}}')
    monkeypatch.setenv("METAVAE_INDEX", str(tmp_path / "empty.json"))
    monkeypatch.setenv("METAVAE_ZOO", str(tmp_path / "zoo"))
    monkeypatch.setattr(index, "shipped_bundles", lambda: tmp_path / "shipped")
    return tmp_path / "zoo"


@pytest.fixture
def publisher(bundle, tmp_path, monkeypatch, zoo):
    """A local HTTP server over a folder with one bundle, and its index in METAVAE_INDEX."""
    folder = tmp_path / "published"
    shutil.copytree(bundle.path, folder / bundle.card.name)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(handler.func, "log_message", lambda *_: None)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    text = index.index_of(folder, f"http://127.0.0.1:{server.server_port}/")
    (tmp_path / "index.json").write_text(text)
    monkeypatch.setenv("METAVAE_INDEX", str(tmp_path / "index.json"))
    yield folder / bundle.card.name
    server.shutdown()
    server.server_close()


def test_a_model_is_pulled_whole_and_verified(publisher, zoo, bundle):
    name = bundle.card.name
    assert [(one.name, one.card) for one in index.listings()] == [(name, None)]
    with pytest.raises(BadBundle, match=f"metavae-zoo pull {name}"):
        index.find_bundle(name)
    pulled = index.pull(name)
    assert pulled.path == zoo / name
    assert pulled.card == bundle.card
    assert index.find_bundle(name).card == bundle.card


@pytest.mark.parametrize("damage", ["card.json", "encode.onnx", "golden.safetensors"])
def test_a_changed_byte_at_the_address_leaves_nothing_here(publisher, zoo, bundle, damage):
    with (publisher / damage).open("r+b") as file:
        file.seek(100)
        file.write(b"\xff")
    with pytest.raises(BadBundle, match="has changed since it was made"):
        index.pull(bundle.card.name)
    assert list(zoo.iterdir()) == []


def test_a_file_that_is_not_there_or_too_large_leaves_nothing_here(publisher, zoo, bundle):
    (publisher / "encode.onnx").unlink()
    with pytest.raises(index.DownloadFailed, match="404"):
        index.pull(bundle.card.name)
    (publisher / "encode.onnx").write_bytes(bytes(2 * bundle.size))
    with pytest.raises(index.DownloadFailed, match="larger than"):
        index.pull(bundle.card.name)
    assert list(zoo.iterdir()) == []


class Endless(http.server.BaseHTTPRequestHandler):
    """Answers everything with bytes that never end, packed or not as `encoding` says.

    Between two pieces of `part` it waits `pause` seconds, or until `over`.
    """

    encoding = ""
    part = bytes(100_000)
    pause = 0.0
    over = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        if self.encoding:
            self.send_header("Content-Encoding", self.encoding)
        self.end_headers()
        part = gzip.compress(bytes(100_000_000)) if self.encoding else self.part
        with contextlib.suppress(OSError):
            while not (self.pause and self.over.wait(self.pause)):
                self.wfile.write(part)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_a_download_that_never_ends_is_cut_off(publisher, zoo, bundle, monkeypatch, encoding):
    monkeypatch.setattr(Endless, "encoding", encoding)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        point_index(url=f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(index.DownloadFailed, match=rf"larger than the {bundle.size} bytes"):
            index.pull(bundle.card.name)
        server.shutdown()
    assert list(zoo.iterdir()) == []


def test_a_download_that_trickles_is_cut_off(publisher, zoo, bundle, monkeypatch):
    monkeypatch.setattr(index, "_PATIENCE", 0.5)
    monkeypatch.setattr(Endless, "part", b" ")
    monkeypatch.setattr(Endless, "pause", 0.01)
    monkeypatch.setattr(Endless, "over", threading.Event())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        point_index(url=f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(index.DownloadFailed, match="comes too slowly"):
            index.pull(bundle.card.name)
        Endless.over.set()
        server.shutdown()
    assert list(zoo.iterdir()) == []


def test_files_that_are_larger_together_than_the_index_says_are_refused(publisher, zoo, bundle):
    point_index(size=bundle.size - 1)
    with pytest.raises(index.DownloadFailed, match="that the index leaves for it"):
        index.pull(bundle.card.name)
    assert list(zoo.iterdir()) == []


def point_index(name: str = "", **changes: object) -> None:
    """Write another name, or other facts, of its one model into the index."""
    path = Path(os.environ["METAVAE_INDEX"])
    [(known, entry)] = json.loads(path.read_text())["models"].items()
    path.write_text(json.dumps({"models": {name or known: entry | changes}}))


ODD_NAMES = [
    "../escape",
    "/etc/escape",
    ".hidden",
    "a b",
    "a/b",
    "..",
    "",
    "UPPER",
    "a\n",
    "x" * 101,
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_could_leave_the_zoo_is_no_name(publisher, zoo, bundle, tmp_path, name):
    """Neither on a command line, nor in an index, nor on a card."""
    before = sorted(tmp_path.rglob("*"))
    for command in ("show", "pull", "verify"):
        done = CliRunner().invoke(main, [command, name])
        assert done.exit_code == 1
        assert f"{name!r}" in done.stderr
        assert done.stderr.count("\n") == 1
    if name:
        point_index(name)
        with pytest.raises(index.BadIndex, match="is not an index of models"):
            index.pull(name)
    facts = json.loads((bundle.path / CARD).read_text()) | {"name": name}
    (publisher / CARD).write_text(json.dumps(facts))
    with pytest.raises(BadBundle, match="name: String should"):
        index.add(publisher)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_recipe_that_does_not_exist_is_built_nowhere(zoo, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    for name in ("..", "../escape"):
        done = CliRunner().invoke(main, ["build", name, "--runs", str(tmp_path / "runs")])
        assert done.exit_code == 1
        assert f"no recipe {name!r}" in done.stderr.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_of_another_name_than_the_index_gives_is_refused(publisher, zoo):
    point_index("another-model")
    with pytest.raises(BadBundle, match="the index says another-model"):
        index.pull("another-model")
    assert list(zoo.iterdir()) == []


@pytest.mark.parametrize("file", ["../../escape", "/etc/escape", "..", "encode.onnx/x"])
def test_a_card_that_lists_a_file_elsewhere_fetches_none(publisher, zoo, bundle, tmp_path, file):
    card = json.loads((publisher / CARD).read_text())
    card["files"][file] = card["files"].pop("encode.onnx")
    (publisher / CARD).write_text(json.dumps(card))
    point_index(card_sha256=sha256_of(publisher / CARD))
    with pytest.raises(BadBundle, match="lists the files"):
        index.pull(bundle.card.name)
    assert list(zoo.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["file:///etc", "ftp://127.0.0.1/x", "nothing", "", "http://a..b/x"]
)
def test_an_address_that_is_not_http_is_one_clear_error(publisher, zoo, bundle, url):
    point_index(url=url)
    with pytest.raises(index.DownloadFailed, match="cannot download"):
        index.pull(bundle.card.name)


def test_an_added_bundle_is_found_by_its_name(bundle, zoo):
    with pytest.raises(UnknownName):
        index.find_bundle(bundle.card.name)
    index.add(bundle.path)
    assert index.find_bundle(bundle.card.name).path == zoo / bundle.card.name
    assert index.local_names() == [bundle.card.name]


@pytest.fixture
def shipped(bundle, zoo, tmp_path, monkeypatch) -> Path:
    """The bundle as one that ships, in the index that does."""
    folder = shutil.copytree(bundle.path, tmp_path / "shipped" / bundle.card.name)
    entries = index.Index.model_validate_json(index.index_of(folder.parent, None)).models
    monkeypatch.setattr(index, "_shipped_entries", lambda: entries)
    return folder


def test_a_folder_without_a_card_hides_no_model_that_ships(shipped, zoo):
    (zoo / shipped.name).mkdir(parents=True)
    assert index.find_bundle(shipped.name).path == shipped


def test_the_card_of_a_model_that_ships_is_the_one_that_its_index_says(shipped, bundle):
    index.find_bundle(shipped.name)
    changed = bundle.card.model_copy(update={"validation_elbo": -1.0})
    (shipped / "card.json").write_text(changed.to_json())
    open_bundle(shipped)  # whole in itself
    with pytest.raises(BadBundle, match=r"card\.json has changed since it was made"):
        index.find_bundle(shipped.name)


def test_a_model_among_those_that_ship_which_their_index_does_not_list_is_refused(
    shipped, monkeypatch
):
    monkeypatch.setattr(index, "_shipped_entries", dict)
    with pytest.raises(BadBundle, match=r"their index does not list it.*metavae-zoo add"):
        index.find_bundle(shipped.name)


def test_a_model_that_ships_and_is_gone_comes_back_with_metavae_and_not_by_a_pull(
    shipped, monkeypatch
):
    monkeypatch.setattr(index, "read_index", index._shipped_entries)
    shutil.rmtree(shipped)
    for find in (index.find_bundle, index.pull):
        with pytest.raises(BadBundle, match="install metavae again") as refusal:
            find(shipped.name)
        assert "pull" not in str(refusal.value)


def test_a_name_that_is_taken_is_given_up_only_if_asked(bundle, shipped, zoo):
    with pytest.raises(BadBundle, match=r"is on this machine already.*shipped.*--replace"):
        index.add(bundle.path)
    index.add(bundle.path, replace=True)
    assert index.find_bundle(bundle.card.name).path == zoo / bundle.card.name
    with pytest.raises(BadBundle, match="export --name"):
        index.add(bundle.path)


def test_a_model_of_ones_own_can_be_removed_and_one_that_ships_is_then_found(bundle, shipped, zoo):
    name = bundle.card.name
    index.add(bundle.path, replace=True)
    assert [one.origin for one in index.listings() if one.name == name] == ["yours"]
    assert index.remove(name) == zoo / name
    assert index.find_bundle(name).path == shipped
    assert [one.origin for one in index.listings() if one.name == name] == ["ships"]
    with pytest.raises(BadBundle, match=r"came with metavae .* and stays"):
        index.remove(name)
    with pytest.raises(UnknownName):
        index.remove("nothing")


def test_a_bundle_in_int8_is_not_taken_in_since_no_store_can_be_packed_of_it(bundle, zoo, tmp_path):
    card = bundle.card.model_copy(update={"precision": "int8"})
    made = copy_bundle(bundle, tmp_path / "quantized", card=card)
    with pytest.raises(BadBundle, match=r"is .* in int8, which `metavae-serve pack"):
        index.add(made.path)


def test_adding_a_damaged_bundle_keeps_the_one_before(bundle, zoo, tmp_path):
    index.add(bundle.path)
    damaged = shutil.copytree(bundle.path, tmp_path / "damaged")
    (damaged / "encode.onnx").write_bytes(b"")
    with pytest.raises(BadBundle):
        index.add(damaged, replace=True)
    assert index.find_bundle(bundle.card.name).card == bundle.card


def test_the_shipped_index_lists_exactly_the_shipped_models():
    shipped = index.shipped_bundles()
    assert json.loads(index.index_of(shipped, None)) == json.loads(
        (index.files("metavae_zoo") / "index.json").read_text()
    )
    sizes = [open_bundle(shipped / name).size for name in index.read_index()]
    assert sum(sizes) < 64e6


@pytest.mark.parametrize("text", ["{", '{"models": {"a": 1}}', '{"models": [], "x": 1}'])
def test_an_index_that_is_none_is_one_clear_error(tmp_path, monkeypatch, text):
    (tmp_path / "index.json").write_text(text)
    monkeypatch.setenv("METAVAE_INDEX", str(tmp_path / "index.json"))
    result = CliRunner().invoke(main, ["list"])
    assert result.exit_code == 1
    assert "is not an index of models" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "shown"),
    [("metavae", "kl_z 0.00\n"), ("vhe", "kl_z 0.00, kl_c 0.00\n")],
)
def test_a_collapsed_kl_is_shown_and_one_that_the_model_has_not_is_not(bundle, zoo, model, shown):
    card = bundle.card.model_copy(
        update={"model": model, "validation_terms": {"kl_z": 0.0, "kl_c": 0.0}}
    )
    copy_bundle(bundle, zoo / card.name, card=card)
    assert shown in CliRunner().invoke(main, ["show", card.name]).stdout


def test_the_commands(bundle, zoo):
    def run(*arguments):
        return CliRunner().invoke(main, list(arguments))

    name = bundle.card.name
    assert run("add", str(bundle.path)).exit_code == 0
    assert name in run("list").stdout
    assert json.loads(run("list", "--json").stdout)[-1]["name"] == name
    assert bundle.card.digest[:12] in run("show", name).stdout
    assert "stored as fp16, computed in fp32" in run("show", name).stdout
    assert json.loads(run("show", name, "--json").stdout)["name"] == name
    assert "golden outputs are as exported" in run("verify", name).stdout
    assert run("pull", name).stdout.strip() == str(zoo / name)
    assert "is on this machine already" in run("add", str(bundle.path)).stderr
    assert run("add", "--replace", str(bundle.path)).exit_code == 0
    assert run("remove", name).stdout == f"removed {zoo / name}\n"
    assert run("add", str(bundle.path)).exit_code == 0
    assert "1297 training and 500 test images" in run("data", "digits-skew").stdout

    for arguments in (["show", "metavae"], ["verify", "metavae"], ["pull", "metavae"]):
        result = run(*arguments)
        assert result.exit_code == 1
        assert "no model 'metavae'" in result.stderr
    (zoo / name / "encode.onnx").write_bytes(b"")
    assert "has changed since it was made" in run("verify").stderr
