"""A served model is the model: same calls, same errors, same bits; nothing is lost on the way."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import tenacity

from metavae_client.errors import (
    BadReply,
    Closed,
    GaveUp,
    ModelNotServed,
    ServerUnreachable,
    Unauthorized,
)
from metavae_client.remote import RemoteEmbedder, served_models
from metavae_client.transport import connection, replies, tokens
from metavae_client.transport.connection import Connection, Patience
from metavae_client.transport.tokens import Tokens
from metavae_serving.torchserve.management import list_workers
from metavae_zoo.embedding.embedder import Embeddings
from metavae_zoo.embedding.summary import Summary
from metavae_zoo.errors import BadImages, BadSummary, NoSite
from metavae_zoo.places import token_file
from metavae_zoo.protocol.wire import HEADER_LENGTH

BUSY, BROKEN, RESET = 503, 500, 0  # what the fake server may do, see conftest


def same(found: Embeddings, expected: Embeddings) -> bool:
    return np.array_equal(found.mean, expected.mean) and np.array_equal(
        found.log_variance, expected.log_variance
    )


@pytest.fixture
def remote(server, local) -> Iterator[RemoteEmbedder]:
    """The real server, asked in small requests so that work is split."""
    with RemoteEmbedder(
        server.url, local.card.name, token_file=server.token_file, max_images_per_request=70
    ) as embedder:
        yield embedder


class Clock:
    """Time that passes by waiting alone."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return sum(self.waits)

    def time(self) -> float:
        return self.monotonic()


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """The connections' clock; their waits take no time of ours."""
    clock = Clock()
    for module in (connection, replies, tenacity):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(Connection, "_wait", lambda self, seconds: clock.waits.append(seconds))
    return clock


def test_the_card_is_the_bundles(remote, local):
    assert remote.card == local.card


def test_a_context_sent_in_parts_has_the_same_summary_to_the_bit(remote, local, images):
    assert remote.summarize(images[:300]) == local.summarize(images[:300])


def test_queries_sent_in_parts_have_the_same_embeddings_to_the_bit(remote, local, images):
    summary = local.summarize(images[:50])
    assert same(remote.embed(images[:500], summary), local.embed(images[:500], summary))


def test_one_summary_per_query_is_split_with_its_queries(remote, local, images):
    summaries = [local.summarize(images[row : row + 5]) for row in range(160)]
    assert same(remote.embed(images[:160], summaries), local.embed(images[:160], summaries))


def test_floats_are_the_bytes_that_they_stand_for(remote, local, images):
    summary = local.summarize(images[:50])
    floats = (images[:5] / 255).astype(np.float32)
    assert same(remote.embed(floats, summary), local.embed(images[:5], summary))


@pytest.mark.parametrize(
    "queries",
    [
        np.zeros((2, 32, 32), np.uint8),
        np.zeros((2, 3, 28, 28), np.uint8),
        np.zeros((0, 28, 28), np.uint8),
        np.zeros((2, 28, 28), np.int64),
        np.full((2, 28, 28), np.nan, np.float32),
        np.full((2, 28, 28), 2.0, np.float32),
    ],
)
def test_bad_images_are_refused_in_the_words_of_an_embedder_in_process(
    remote, local, images, queries
):
    summary = local.summarize(images[:5])
    with pytest.raises(BadImages) as in_process:
        local.embed(queries, summary)
    with pytest.raises(BadImages) as over_http:
        remote.embed(queries, summary)
    assert str(over_http.value) == str(in_process.value)


def test_a_summary_that_is_missing_or_of_another_model_is_refused(remote, local, images):
    with pytest.raises(BadSummary, match="got none"):
        remote.embed(images[:2])
    other = Summary(np.zeros(local.card.feature_dim), 3, "another")
    with pytest.raises(BadSummary, match="made by model another"):
        remote.embed(images[:2], other)


def test_an_unknown_model_is_told_with_those_that_are_served(server, local):
    with (
        RemoteEmbedder(server.url, "nope", token_file=server.token_file) as embedder,
        pytest.raises(ModelNotServed, match=local.card.name) as refusal,
    ):
        _ = embedder.card
    assert refusal.value.served == (local.card.name,)


def test_served_models_have_their_cards(server, local):
    found = served_models(
        server.url, management=server.management_url, token_file=server.token_file
    )
    assert found == [local.card]


@pytest.mark.parametrize("token", [None, "0123abcd"])
def test_a_missing_or_wrong_token_is_told_and_never_shown(server, local, token):
    with (
        RemoteEmbedder(server.url, local.card.name, token=token) as embedder,
        pytest.raises(Unauthorized, match="key_file") as refusal,
    ):
        _ = embedder.card
    assert "0123abcd" not in str(refusal.value)


def test_a_token_that_cannot_stand_in_a_header_is_not_shown(fake, local):
    with (
        RemoteEmbedder(fake.url, local.card.name, token="secret\nword") as embedder,
        pytest.raises(Unauthorized) as refusal,
    ):
        _ = embedder.card
    assert "secret" not in str(refusal.value)


def test_no_server_is_told_at_once_with_how_to_start_one(fake, local):
    fake.http.server_close()
    with (
        RemoteEmbedder(fake.url, local.card.name) as embedder,
        pytest.raises(ServerUnreachable, match="metavae-serve start"),
    ):
        _ = embedder.card


def test_answers_are_joined_in_order_when_the_first_comes_last(fake, faked, local, images):
    summary = local.summarize(images[:20])

    def hold_the_first(request, before):
        first = np.array_equal(request.queries[0], images[0])
        deadline = time.monotonic() + 10
        while first and len(fake.requests) < 4 and time.monotonic() < deadline:
            time.sleep(0.001)

    fake.trouble = hold_the_first
    assert same(faked.embed(images[:40], summary), local.embed(images[:40], summary))


@pytest.mark.parametrize("trouble", [BUSY, BROKEN, 507, RESET], ids=["503", "500", "507", "reset"])
def test_every_request_is_tried_again_until_it_succeeds(fake, faked, local, images, trouble):
    summary = local.summarize(images[:20])
    fake.trouble = lambda request, before: trouble if before % 3 else None
    assert same(faked.embed(images[:40], summary), local.embed(images[:40], summary))
    assert len(fake.requests) > 4


def test_a_reply_that_is_cut_in_its_middle_is_asked_for_again(fake, faked, local, images):
    summary = local.summarize(images[:20])

    def cut(request, before):
        if before > 0:
            return None
        body, headers = fake.answer(request)
        headers |= {"Content-Length": str(len(body)), "Connection": "close"}
        return 200, headers, body[: len(body) // 2]

    fake.trouble = cut
    assert same(faked.embed(images[:5], summary), local.embed(images[:5], summary))
    assert len(fake.requests) == 2


def test_a_killed_worker_loses_no_request(server, remote, local, images):
    summary = remote.summarize(images[:50])
    worker = list_workers(server.store)[0]
    found: list[Embeddings] = []
    many = np.concatenate([images] * 4)
    asking = threading.Thread(target=lambda: found.append(remote.embed(many, summary)))
    asking.start()
    os.kill(worker.pid, signal.SIGKILL)
    asking.join()
    assert same(found[0], local.embed(many, summary))
    assert list_workers(server.store)[0].pid != worker.pid


def test_retry_after_is_honoured(fake, faked, images, clock):
    fake.trouble = lambda request, before: (503, {"Retry-After": "9"}, b"") if before == 0 else None
    faked.summarize(images[:5])
    assert clock.waits == [9]


@pytest.mark.parametrize(
    "text", ["\xb2", "9" * 5000, "-9", "soon", "", "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"]
)
def test_a_retry_after_that_is_no_number_is_one_that_did_not_come(
    fake, faked, local, images, clock, text
):
    fake.trouble = lambda request, before: (
        (503, {"Retry-After": text}, b"") if before == 0 else None
    )
    assert faked.summarize(images[:5]) == local.summarize(images[:5])
    assert len(clock.waits) == 1
    assert clock.waits[0] < 1


@pytest.mark.parametrize("text", ["\xb2", "9" * 5000, "-9", "x", ""])
def test_a_length_of_the_reply_that_is_no_number_is_told(fake, faked, images, text):
    def lie(request, before):
        body, headers = fake.answer(request)
        return 200, headers | {HEADER_LENGTH: text}, body

    fake.trouble = lie
    with pytest.raises(BadReply, match="cannot be read"):
        faked.summarize(images[:5])


@pytest.mark.parametrize("trouble", [BUSY, RESET], ids=["503", "reset"])
def test_it_gives_up_in_the_stated_time_and_says_how_often_it_tried(
    fake, local, images, trouble, clock
):
    fake.trouble = lambda request, before: trouble
    with (
        RemoteEmbedder(fake.url, local.card.name, give_up_after=60) as embedder,
        pytest.raises(GaveUp, match=r"after \d+ tries in") as gave_up,
    ):
        embedder.summarize(images[:5])
    assert gave_up.value.tries == len(fake.requests) == len(clock.waits) + 1 > 12
    assert 54 < gave_up.value.seconds == sum(clock.waits) < 60


def test_a_request_that_waits_gives_up_when_the_embedder_is_closed(
    fake, local, images, monkeypatch
):
    fake.trouble = lambda request, before: BUSY
    embedder = RemoteEmbedder(fake.url, local.card.name)
    wait = Connection._wait

    def close_and_wait(connection: Connection, seconds: float) -> None:
        embedder.close()
        wait(connection, seconds)

    monkeypatch.setattr(Connection, "_wait", close_and_wait)
    for _ in range(2):
        with pytest.raises(Closed, match=r"this embedder of .* is closed"):
            embedder.summarize(images[:5])


def test_a_request_that_waits_for_its_reply_gives_up_when_the_embedder_is_closed(
    fake, local, images
):
    asked, given_up = threading.Event(), threading.Event()

    def hang(request, before):
        asked.set()
        given_up.wait()
        return RESET

    fake.trouble = hang
    embedder = RemoteEmbedder(fake.url, local.card.name, max_images_per_request=10)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(embedder.summarize, images[:20])
        assert asked.wait(60)
        embedder.close()
        with pytest.raises(Closed, match="is closed"):
            asking.result(timeout=20)
        given_up.set()


def test_a_reply_that_trickles_in_does_not_outlast_the_patience():
    given_up = threading.Event()

    def trickle(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        with accepted, contextlib.suppress(OSError):
            accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not given_up.wait(0.01):
                accepted.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=trickle, args=(listener,))
        serving.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        asking = Connection(url, Tokens(), "inference", Patience(60, give_up_after=0.2))
        try:
            with pytest.raises(GaveUp, match="ReadTimeout"):
                asking.send("GET", "/")
        finally:
            given_up.set()
            serving.join()
            asking.close()


def test_a_server_that_wants_longer_than_the_patience_is_given_up_at_once(fake, local, images):
    fake.trouble = lambda request, before: (503, {"Retry-After": "3600"}, b"")
    with (
        RemoteEmbedder(fake.url, local.card.name, give_up_after=5.0) as embedder,
        pytest.raises(GaveUp, match="after 1 tries"),
    ):
        embedder.summarize(images[:5])


def test_an_expired_token_is_read_again_from_its_file(fake, local, images, tmp_path):
    file = tmp_path / "key_file.json"
    file.write_text(json.dumps({"inference": {"key": "old"}}))
    fake.accepted_token = "old"
    with RemoteEmbedder(fake.url, local.card.name, token_file=file) as embedder:
        before = embedder.summarize(images[:5])
        fake.accepted_token = "new"
        file.write_text(json.dumps({"inference": {"key": "new"}}))
        assert embedder.summarize(images[:5]) == before
        fake.accepted_token = "a third, which the file does not have"
        with pytest.raises(Unauthorized, match="refuses the token of"):
            embedder.summarize(images[:5])


def test_a_key_file_that_a_stopped_server_left_does_not_hide_the_next_one(
    fake, local, images, tmp_path, monkeypatch
):
    stale = token_file(tmp_path / "store")
    stale.parent.mkdir(parents=True)
    stale.write_text(json.dumps({"inference": {"key": "stale"}}))
    monkeypatch.setenv("METAVAE_STORE", str(tmp_path / "store"))
    live = tmp_path / "key_file.json"  # the working directory's
    live.write_text(json.dumps({"inference": {"key": "live"}}))
    fake.accepted_token = "live"
    with RemoteEmbedder(fake.url, local.card.name) as embedder:
        assert embedder.summarize(images[:5]) == local.summarize(images[:5])
        assert len(fake.requests) == 2
        fake.accepted_token = "neither"
        with pytest.raises(Unauthorized, match=r"store.*and that of key_file.json"):
            embedder.summarize(images[:5])


@pytest.fixture
def expire(server) -> Callable[[str], None]:
    """Makes a kind of token one that nobody has: neither whoever read it nor the key file."""

    def expire(kind: str) -> None:
        httpx.get(
            f"{server.management_url}/token?type={kind}", headers=server.headers("API")
        ).raise_for_status()
        keys = json.loads(server.token_file.read_text())
        keys[kind]["key"] = "expired"
        server.token_file.write_text(json.dumps(keys))

    return expire


def test_an_expired_token_is_renewed_once_for_all_requests(
    server, remote, local, images, expire, caplog
):
    caplog.set_level(logging.DEBUG)
    summary = remote.summarize(images[:50])
    expire("inference")
    caplog.clear()
    assert same(remote.embed(images[:500], summary), local.embed(images[:500], summary))
    assert caplog.text.count("/token?type=inference") == 1
    for kind in ("API", "inference"):
        assert server.headers(kind)["Authorization"].split()[1] not in caplog.text


def test_of_clients_that_miss_a_token_together_one_has_it_renewed(server, expire, caplog):
    caplog.set_level(logging.INFO)
    keys = Tokens(path=server.token_file)
    clients = [Connection(server.url, keys, "inference", Patience()) for _ in range(8)]
    expire("inference")
    caplog.clear()
    start = threading.Barrier(len(clients))

    def ping(client: Connection) -> int:
        start.wait()
        return client.send("GET", "/ping").status_code

    with ThreadPoolExecutor(len(clients)) as pool:
        assert list(pool.map(ping, clients)) == [200] * len(clients)
    assert caplog.text.count("/token?type=inference") == 1
    for client in clients:
        client.close()


def test_an_expired_management_token_is_renewed(server, local, expire):
    expire("management")
    found = served_models(
        server.url, management=server.management_url, token_file=server.token_file
    )
    assert found == [local.card]


def test_where_no_new_token_is_made_the_refusal_stands(server, local, tmp_path):
    file = token_file(tmp_path)
    file.parent.mkdir()
    file.write_text(json.dumps({"inference": {"key": "old"}, "API": {"key": "wrong"}}))
    before = server.headers()
    with (
        RemoteEmbedder(server.url, local.card.name, token_file=file) as embedder,
        pytest.raises(Unauthorized, match=r"refuses the token of .*start it again"),
    ):
        _ = embedder.card
    assert server.headers() == before


@pytest.mark.parametrize("images_of_part", [1, 100])
def test_a_closed_embedder_says_so_however_much_it_is_given(fake, local, images, images_of_part):
    embedder = RemoteEmbedder(
        fake.url, local.card.name, token="x", max_images_per_request=images_of_part
    )
    _ = embedder.card
    embedder.close()
    with pytest.raises(Closed, match="is closed"):
        embedder.summarize(images[:5])


@pytest.mark.parametrize(
    ("url", "key", "asked"),
    [
        ("http://127.0.0.1:8080", "inference", "http://127.0.0.1:8081"),
        ("http://localhost:8080", "inference", "http://localhost:8081"),
        ("http://[::1]:8080", "inference", "http://[::1]:8081"),
        ("http://127.0.0.1:8081", "management", "http://127.0.0.1:8081"),
        ("grpc://127.0.0.1:8083", "inference", None),
        ("http://192.0.2.1:8080", "inference", None),
        ("http://192.0.2.1:8081", "management", None),
        ("https://localhost.example.org", "inference", None),
        ("http://127.0.0.1.example.org:8080", "inference", None),
    ],
)
def test_the_api_key_goes_to_the_management_api_of_this_machine_alone(tmp_path, url, key, asked):
    file = token_file(tmp_path)
    file.parent.mkdir()
    file.write_text(json.dumps({kind: {"key": f"the-{kind}"} for kind in (key, "API")}))
    seen: list[httpx.Request] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        fault = json.dumps({"code": 400, "type": "InvalidKeyException"}).encode()
        return httpx.Response(400, stream=httpx.ByteStream(fault))

    answering = httpx.MockTransport(refuse)
    asking = Connection(url, Tokens(path=file), key, Patience(), answering)
    with pytest.raises(Unauthorized):
        asking.send("GET", "/ping")
    with_api_key = [str(one.url) for one in seen if "the-API" in one.headers["Authorization"]]
    assert with_api_key == ([f"{asked}/token?type={key}"] if asked else [])
    assert len(seen) == 1 + len(with_api_key)


def test_an_old_copy_of_a_key_file_ends_nobodys_token(server, local, tmp_path):
    copy, before = tmp_path / "key_file.json", server.headers()
    keys = json.loads(server.token_file.read_text())
    keys["inference"]["key"] = "before"
    copy.write_text(json.dumps(keys))
    with (
        RemoteEmbedder(server.url, local.card.name, token_file=copy) as embedder,
        pytest.raises(Unauthorized, match="refuses the token of"),
    ):
        _ = embedder.card
    answer = httpx.get(f"{server.url}/ping", headers=before)
    assert answer.status_code == 200


def test_a_key_file_that_is_being_written_is_read_again(tmp_path, monkeypatch):
    file = tmp_path / "key_file.json"
    whole = json.dumps({"inference": {"key": "new"}})
    file.write_text(whole[:9])
    pause = SimpleNamespace(sleep=lambda seconds: file.write_text(whole))
    monkeypatch.setattr(tokens, "time", pause)
    assert Tokens(path=file).read("inference") == "new"
    assert Tokens(path=str(file)).read("inference") == "new"


def test_no_token_is_ever_logged(fake, faked, local, images, caplog):
    caplog.set_level(logging.DEBUG)
    fake.accepted_token = "a-very-secret-token"
    fake.trouble = lambda request, before: BUSY if before == 0 else None
    with RemoteEmbedder(fake.url, local.card.name, token="a-very-secret-token") as embedder:
        embedder.summarize(images[:5])
        assert "trying again" in caplog.text
        assert "secret" not in caplog.text + repr(embedder)


def test_a_site_is_that_of_the_model_in_process_to_the_bit(site_server, images):
    local = site_server.embedder
    with RemoteEmbedder(site_server.url, local.card.name) as remote:
        for count in (1, 20):
            summary = remote.summarize(images[:count])
            assert np.array_equal(remote.site(summary), local.site(summary))
        asked = len(site_server.requests)
        for bad in (
            Summary(summary.total, 20, "another"),
            Summary(summary.total, 0, summary.model),
        ):
            with pytest.raises(BadSummary):
                remote.site(bad)
        assert len(site_server.requests) == asked, "what is no summary of this model is not sent"


def test_a_site_of_a_model_that_infers_none_is_not_asked_for(faked, fake, images):
    summary = faked.summarize(images[:5])
    asked = len(fake.requests)
    with pytest.raises(NoSite, match="infers no site"):
        faked.site(summary)
    assert len(fake.requests) == asked


def test_a_reply_without_the_site_is_a_bad_one(site_server, images, monkeypatch):
    with RemoteEmbedder(site_server.url, site_server.embedder.card.name) as remote:
        summary = remote.summarize(images[:5])
        short = np.zeros(3, np.float32)
        monkeypatch.setattr(site_server.embedder, "site", lambda summary: short)
        with pytest.raises(BadReply, match="sent no site of shape"):
            remote.site(summary)
