"""Claims about the patch of TorchServe's worker: it reads the same, and its logs are quiet."""

from __future__ import annotations

import gc
import logging
import re
import socket
import struct
import sys
import threading
from types import ModuleType, SimpleNamespace

import grpc
import httpx
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metavae_client.transport.grpc import METHOD
from metavae_serving.answering.access_log import Entry, Journal
from metavae_serving.torchserve import patch
from metavae_serving.torchserve.management import list_workers
from metavae_zoo.protocol.wire import encode_request

SIZES = st.one_of(st.integers(0, 30), st.sampled_from([65_535, 65_536, 65_537, 300_000]))


PART = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'


@pytest.fixture
def patched_protocol(monkeypatch):
    """TorchServe's reader of messages, as it is after the patch."""
    from ts.protocol import otf_message_handler as protocol

    for replaced in ("_retrieve_buffer", "_retrieve_input_data", "logging"):
        monkeypatch.setattr(protocol, replaced, getattr(protocol, replaced))
    patch.patch_torchserve(metrics=None)
    yield protocol
    gc.unfreeze()


def sent_in_pieces(data: bytes, pieces: list[int]) -> socket.socket:
    """A socket to which another thread sends `data`, in pieces of these sizes over and over."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def send() -> None:
        at = number = 0
        while at < len(data):
            size = pieces[number % len(pieces)]
            theirs.sendall(data[at : at + size])
            at, number = at + size, number + 1
        theirs.close()

    threading.Thread(target=send, daemon=True).start()
    return ours


@settings(deadline=None)
@given(
    sizes=st.lists(SIZES, max_size=12),
    pieces=st.lists(st.integers(1, 100_000), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_however_the_bytes_come_each_part_is_as_it_was_sent(sizes, pieces, seed):
    data = np.random.default_rng(seed).bytes(sum(sizes))
    if len(data) / min(pieces) > 10_000:
        pieces = [max(1, len(data) // 1000)]
    retrieve = patch.Reader().read
    at = 0
    with sent_in_pieces(data, pieces) as ours:
        for size in sizes:
            assert bytes(retrieve(ours, size)) == data[at : at + size]
            at += size


def test_a_message_is_read_by_torchserve_as_by_its_own_reader():
    from ts.protocol import otf_message_handler as protocol

    end = struct.pack("!i", -1)
    headers = field(b"Host") + field(b"here") + field(b"X-Empty") + field(b"") + end
    body = bytes(range(256)) * 1000
    inputs = field(b"body") + field(b"application/octet-stream") + field(body) + end
    message = b"I" + field(b"id-1") + headers + inputs + end
    found = []
    with pytest.MonkeyPatch.context() as patched:
        for reader in (protocol._retrieve_buffer, patch.Reader().read):
            patched.setattr(protocol, "_retrieve_buffer", reader)
            with sent_in_pieces(message * 2, [70_000, 3]) as ours:
                found += [protocol.retrieve_msg(ours) for _ in range(2)]
    assert found[0] == found[1] == found[2] == found[3]
    assert found[0][1][0]["parameters"][0]["value"] == body


def field(of: bytes) -> bytes:
    """As the front-end sends a name, a type or a value: its length first."""
    return struct.pack("!i", len(of)) + of


@settings(deadline=None)
@given(
    sizes=st.lists(SIZES, max_size=12),
    pieces=st.lists(st.integers(1, 100_000), min_size=1, max_size=4),
)
def test_a_list_is_passed_over_to_its_end_and_no_further(sizes, pieces):
    data = b"".join(field(bytes(size)) for size in sizes) + struct.pack("!i", -1) + b"next"
    if len(data) / min(pieces) > 10_000:
        pieces = [max(1, len(data) // 1000)]
    read = patch.Reader().read
    inputs = patch.FewInputs(SimpleNamespace(_retrieve_buffer=read, _retrieve_input_data=None))
    with sent_in_pieces(data, pieces) as ours:
        assert inputs._skip(ours) == bool(sizes)
        assert read(ours, 4) == b"next"


@pytest.mark.parametrize("inputs", [0, 1, 31, 32, 33, 5000])
def test_of_many_inputs_the_first_are_read_and_one_stands_for_the_rest(patched_protocol, inputs):
    end = struct.pack("!i", -1)
    names = [f"input-{number}".encode() for number in range(inputs)]
    each = [field(name) + field(b"text/plain") + field(b"value") for name in names]
    message = b"I" + field(b"id") + end + b"".join(each) + end + end
    with sent_in_pieces(message * 2, [70_000, 3]) as ours:
        for _ in range(2):
            _, [request] = patched_protocol.retrieve_msg(ours)
            found = [one["name"] for one in request["parameters"]]
            read = [name.decode() for name in names[: patch.MOST_INPUTS]]
            assert found == read + [patch.TOO_MANY_INPUTS] * (inputs > patch.MOST_INPUTS)


def test_a_form_of_a_million_fields_is_refused_and_costs_its_worker_nothing(server, bundle):
    url, before = f"{server.url}/predictions/{bundle.card.name}", list_workers(server.store)
    used = [psutil.Process(one.pid).memory_info().rss for one in before]
    for kind, body in (
        ("application/x-www-form-urlencoded", b"a&" * 1_000_000),
        ("multipart/form-data; boundary=b", PART * 10_000 + b"--b--\r\n"),
    ):
        answer = httpx.post(
            url, content=body, headers=server.headers() | {"Content-Type": kind}, timeout=120
        )
        assert answer.status_code == 400
        assert "came as a form" in answer.json()["error"]
    assert [one.pid for one in list_workers(server.store)] == [one.pid for one in before]
    for one, earlier in zip(before, used, strict=True):
        assert psutil.Process(one.pid).memory_info().rss < earlier + 50e6


def test_a_front_end_that_goes_away_ends_the_worker():
    with sent_in_pieces(b"ab", [2]) as ours, pytest.raises(SystemExit) as end:
        patch.Reader().read(ours, 3)
    assert end.value.code == 0


def test_what_one_connection_left_is_not_read_from_the_next():
    retrieve = patch.Reader().read
    with sent_in_pieces(b"abc", [3]) as first:
        assert retrieve(first, 1) == b"a"
    with sent_in_pieces(b"xyz", [3]) as second:
        assert retrieve(second, 3) == b"xyz"


def test_another_torchserve_is_left_as_it_is(monkeypatch):
    other = ModuleType("other")
    other._retrieve_buffer = original = lambda conn: b""  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ts.protocol.otf_message_handler", other)
    patch.patch_torchserve(metrics=None)
    assert other._retrieve_buffer is original


def test_the_lines_of_a_journal_are_of_one_shape_and_are_told_once():
    journal = Journal()
    journal.note(Entry(1_795_645_576.4624, "b2f1", "embed", "ok", 200, 32, 0, 0.00130801))
    assert journal.drain() == [
        "request=b2f1 time=2026-11-25T22:26:16.462+00:00 operation=embed outcome=ok status=200"
        " queries=32 context=0 seconds=0.001308"
    ]
    assert journal.drain() == []


def test_the_server_logs_one_line_for_a_request_and_says_it_once(server, bundle, rng, until):
    images = rng.integers(0, 256, (2, *bundle.card.image_shape), np.uint8)
    body, headers = encode_request(context=images)
    given = headers | server.headers() | {"X-Request-Id": "only-once"}
    path = f"{server.url}/predictions/{bundle.card.name}"
    assert httpx.post(path, content=body, headers=given).status_code == 200
    folder = server.store.run_folder
    model_log = folder / "logs" / "model_log.log"
    until(lambda: "request=only-once" in model_log.read_text())
    line = r"request=only-once time=\S+ operation=summarize outcome=ok status=200 queries=0"
    assert len(re.findall(line, model_log.read_text())) == 1
    others = [folder / "torchserve.log", *(folder / "logs").glob("*.log")]
    told = {path.name: path.read_text() for path in others if path != model_log}
    assert "ts_log.log" in told
    for name, text in told.items():
        assert "only-once" not in text, name
        assert "[METRICS]" not in text, name
        assert not re.search("Flushing req.cmd PREDICT|Waiting time|Backend response time", text), (
            name
        )
    assert "Backend received inference" not in model_log.read_text()
    assert "PredictionTime" not in model_log.read_text()


def test_what_is_never_rotated_does_not_grow_with_requests(server, bundle, rng, until):
    images = rng.integers(0, 256, (2, *bundle.card.image_shape), np.uint8)
    body, headers = encode_request(context=images)
    printed = server.store.run_folder / "torchserve.log"
    access_log = server.store.log_folder / "access_log.log"
    paths = [f"/predictions/{bundle.card.name}", f"/v2/models/{bundle.card.name}/infer", "/v2", "/"]

    def ask(tag: str) -> None:
        for path in paths:
            for token in (server.headers(), {}):  # a connection each
                httpx.post(f"{server.url}{path}?{tag}", content=body, headers=headers | token)
        until(lambda: access_log.read_text().count(f"?{tag} ") == 2 * len(paths))

    def garbage() -> None:
        host, port = server.url.removeprefix("http://").rsplit(":", 1)
        with grpc.insecure_channel(f"{host}:{int(port) + 3}") as channel:
            call = channel.unary_unary(METHOD)
            token = (("authorization", server.headers()["Authorization"]),)
            with pytest.raises(grpc.RpcError):
                call(b"\x0a\x7f", metadata=token, timeout=30)

    ask("first")
    garbage()
    before = printed.stat().st_size
    for turn in range(3):
        ask(f"turn-{turn}")
        garbage()
    assert printed.stat().st_size == before, printed.read_text()[before:]


def test_torchserves_log_still_says_what_it_does(server):
    text = (server.store.log_folder / "ts_log.log").read_text()
    assert "Initialize Inference server" in text


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    theirs = logging.getLogger("ts.protocol.otf_message_handler")
    level = theirs.level
    yield
    theirs.setLevel(level)
