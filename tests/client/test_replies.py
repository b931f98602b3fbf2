"""Claims about replies: what they say is told in words that are safe to show, and with an end."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from metavae_client.errors import BadReply, RequestFailed, RequestRefused
from metavae_client.remote import RemoteEmbedder
from metavae_client.transport import replies
from metavae_client.transport.catalogue import served_names
from metavae_client.transport.connection import Connection
from metavae_client.transport.tokens import Tokens
from metavae_zoo.bundles.card import ModelCard

BUSY = 503  # what the fake server may do, see conftest


def test_a_refusal_keeps_the_servers_own_words(fake, faked, images):
    fault = {"error": "no", "code": "bad_images", "field": "context", "hint": "do"}
    fake.trouble = lambda request, before: (400, {}, json.dumps(fault).encode())
    with pytest.raises(RequestRefused, match=r"no\. do") as refusal:
        faked.summarize(images[:5])
    assert (refusal.value.code, refusal.value.field, refusal.value.status) == (
        "bad_images",
        "context",
        400,
    )
    assert len(fake.requests) == 1  # asking again would change nothing


def test_a_servers_words_are_one_line_that_no_terminal_obeys(fake, faked, images):
    fault = {
        "error": "\x1b]0;owned\x07\x1b[2J not\r\nwhat you think" + "h" * 5_000_000,
        "hint": None,
        "field": ["queries"],
        "code": "bad\u202eimages",
    }
    fake.trouble = lambda request, before: (400, {}, json.dumps(fault).encode())
    with pytest.raises(RequestRefused) as refusal:
        faked.summarize(images[:5])
    said = refusal.value
    assert said.message.startswith("]0;owned [2J not what you thinkhhh")
    assert said.message.isprintable()
    assert len(said.message) <= 1000
    assert (said.hint, said.field, said.code) == ("", "", "bad images")


def test_names_and_digests_of_a_server_are_words_of_its_as_well(
    fake, faked, local, images, monkeypatch
):
    _ = faked.card

    def another_model(request, before):
        body, headers = fake.answer(request)
        digest = rb"\u001b[2J\u0007red".ljust(64)
        return 200, headers, body.replace(local.card.digest.encode(), digest)

    fake.trouble = another_model
    with pytest.raises(BadReply, match=r"become another \(\[2J red, it was") as failure:
        faked.summarize(images[:5])
    assert str(failure.value).isprintable()
    listing = {"models": [{"modelName": "\x1b]0;owned\x07red"}, {"modelName": ["no name"]}]}
    reply = httpx.Response(200, json=listing)
    monkeypatch.setattr(Connection, "send", lambda *_, **__: reply)
    assert served_names("http://127.0.0.1:8081", Tokens()) == ["", "]0;owned red"]


def test_a_list_of_models_without_an_end_is_a_bad_reply(monkeypatch):
    asked = []

    def send(self: Connection, method: str, path: str) -> httpx.Response:
        asked.append(path)
        return httpx.Response(200, json={"models": [], "nextPageToken": str(len(asked))})

    monkeypatch.setattr(Connection, "send", send)
    with pytest.raises(BadReply, match="no management API of TorchServe"):
        served_names("http://127.0.0.1:8081", Tokens())
    assert len(asked) == 100


@pytest.mark.parametrize("token", ["A" * 70_000, {"no": "text"}, 5])
def test_a_page_that_cannot_be_asked_for_is_a_bad_reply(fake, token):
    page = json.dumps({"models": [], "nextPageToken": token}).encode()
    fake.trouble = lambda request, before: (200, {}, page)
    with pytest.raises(BadReply, match="no management API of TorchServe"):
        served_names(fake.url, Tokens(token="t"))


def test_a_reply_without_an_end_is_a_bad_reply_before_memory_is_full(
    fake, faked, images, monkeypatch
):
    fake.trouble = lambda request, before: (200, {}, bytes(10_000_000))
    monkeypatch.setattr(replies, "MOST_BYTES", 1_000_000)
    with pytest.raises(BadReply, match="more than 1000000 bytes"):
        faked.summarize(images[:5])
    assert len(fake.requests) == 1


@pytest.mark.parametrize("packing", ["gzip", "br", "gzip, gzip", "\x1b[2J"])
def test_a_packed_reply_is_not_asked_for_and_not_unpacked(fake, faked, images, packing):
    fake.trouble = lambda request, before: (200, {"Content-Encoding": packing}, b"a bomb")
    with pytest.raises(BadReply, match="is packed") as failure:
        faked.summarize(images[:5])
    assert str(failure.value).isprintable()
    assert fake.encodings == ["identity"]


def test_the_tries_of_a_request_have_one_id_and_every_request_its_own(fake, faked, images):
    fake.trouble = lambda request, before: BUSY if before in (0, 1, 3) else None
    faked.summarize(images[:5])
    faked.summarize(images[:5])
    first, second = fake.ids[0], fake.ids[3]
    assert fake.ids == [first] * 3 + [second] * 2
    assert len({first, second}) == 2


@pytest.mark.parametrize(
    "answer",
    [
        (400, {}, b'{"error": "no", "code": "bad_images"}'),
        (413, {}, b""),
        (404, {}, b"<html>"),
        (200, {}, b"<html>"),
        (200, {}, b'{"outputs": []}'),
        (503, {"Retry-After": "3600"}, b""),
    ],
    ids=["refused", "too large", "another API", "a page", "another model", "given up"],
)
def test_an_error_about_a_reply_ends_with_the_id_that_it_was_asked_under(
    fake, faked, images, answer
):
    fake.trouble = lambda request, before: answer
    with pytest.raises(RequestFailed) as failure:
        faked.summarize(images[:5])
    [asked] = fake.ids
    assert failure.value.request_id == asked
    assert str(failure.value).endswith(f" (request={asked})")
    assert asked not in failure.value.message


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_an_error_names_its_line_in_the_servers_log(server, local, images, until, scheme):
    port = int(server.url.rsplit(":", 1)[1])
    url = {"http": server.url, "grpc": f"grpc://127.0.0.1:{port + 3}"}[scheme]
    with (
        RemoteEmbedder(url, local.card.name, token_file=server.token_file) as remote,
        pytest.raises(RequestRefused) as refusal,
    ):
        remote._infer(queries=images[:1])  # without a context
    said = re.search(r"request=[0-9a-f]{32}\b", str(refusal.value))
    assert said
    log = server.store.log_folder / "model_log.log"
    until(lambda: f"{said[0]} " in log.read_text())
    line = rf"{said[0]} time=\S+ operation=embed outcome=refused status=400 queries=1 context=0"
    assert len(re.findall(line, log.read_text())) == 1


def test_a_page_that_is_no_answer_is_told(fake, faked, images):
    fake.trouble = lambda request, before: (200, {}, b"<html>login</html>")
    with pytest.raises(BadReply, match="cannot be read"):
        faked.summarize(images[:5])


def test_a_model_that_was_exchanged_is_noticed(fake, faked, local, images, monkeypatch):
    _ = faked.card
    fields = local.card.model_dump() | {"files": dict.fromkeys(local.card.files, "0" * 64)}
    monkeypatch.setattr(local, "card", ModelCard.model_validate(fields))
    with pytest.raises(BadReply, match="has become another"):
        faked.summarize(images[:5])
