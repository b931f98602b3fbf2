"""Claims about the reverse proxy of the documents, run by a real nginx before the real server."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import pwd
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import trustme
from numpy.testing import assert_array_equal

from metavae_client.errors import ServerUnreachable
from metavae_client.remote import RemoteEmbedder
from metavae_serving.torchserve.configuration import _RESPONSE_SECONDS, _SHARE
from metavae_zoo.protocol.wire import MAX_REQUEST_BYTES, encode_request

SHIPPED = (Path(__file__).parents[2] / "docs" / "nginx.conf").read_text()

Proxy = Callable[..., contextlib.AbstractContextManager[int]]


@pytest.fixture(scope="module")
def nginx() -> str:
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip("nginx is not installed: `apt-get install nginx-light`")
    return found


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Path:
    """A certificate authority of our own, and beside it what it has signed for localhost."""
    folder, ca = tmp_path_factory.mktemp("tls"), trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
        str(folder / "localhost.pem")
    )
    return folder / "ca.pem"


@pytest.fixture(scope="module")
def proxy(nginx, authority, tmp_path_factory, until) -> Proxy:
    """Runs the shipped example before a port, with some of its words changed; yields its port."""

    def site(port: int, upstream: int, changes: dict[str, str]) -> str:
        changes = {
            "127.0.0.1:8080": f"127.0.0.1:{upstream}",
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "/etc/ssl/certs/metavae.pem": f"{authority.parent}/localhost.pem",
            "/etc/ssl/private/metavae.key": f"{authority.parent}/localhost.pem",
        } | changes
        text = SHIPPED
        for shipped, ours in changes.items():
            assert text.count(shipped) == 1, shipped
            text = text.replace(shipped, ours)
        return text

    @contextlib.contextmanager
    def running(upstream: int, changes: dict[str, str] | None = None) -> Iterator[int]:
        folder = tmp_path_factory.mktemp("nginx")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (folder / "site.conf").write_text(site(port, upstream, changes or {}))
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        (folder / "nginx.conf").write_text(
            f"user {pwd.getpwuid(os.geteuid()).pw_name};\n"
            f"daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
            f"http {{\naccess_log {folder}/access.log;\ninclude {folder}/site.conf;\n"
            + "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
            + "}\n"
        )
        command = [nginx, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"]
        process = subprocess.Popen(command)

        def listens() -> bool:
            assert process.poll() is None, (folder / "error.log").read_text()
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", port)) == 0

        try:
            until(listens)
            yield port
        finally:
            process.terminate()
            process.wait(30)

    return running


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


@pytest.fixture(scope="module")
def port(proxy, server) -> Iterator[int]:
    """Where the example listens as it ships, before the session's server."""
    with proxy(port_of(server.url)) as port:
        yield port


@pytest.fixture
def trusted(authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority))


@pytest.fixture
def web(port, server, trusted) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=f"https://localhost:{port}", headers=server.headers(), verify=trusted, timeout=60
    ) as client:
        yield client


def test_its_limits_are_the_servers():
    assert re.findall(r"client_max_body_size (\d+);", SHIPPED) == [str(MAX_REQUEST_BYTES)]
    (patience,) = re.findall(r"proxy_read_timeout (\d+)s;", SHIPPED)
    assert int(patience) > _RESPONSE_SECONDS, "a request may wait before a worker takes it"
    (share,) = re.findall(r"1 for every (\d+) MB of memory", SHIPPED)
    assert int(share) * 1e6 * _SHARE >= MAX_REQUEST_BYTES


def queued(server) -> float:
    """How many requests came with a proxy's time, by the server's metrics."""
    text = httpx.get(f"http://127.0.0.1:{port_of(server.url) + 2}/metrics").text
    lines = re.findall(r'^metavae_stage_seconds_count\{.*stage="queue".*\} (\S+)$', text, re.M)
    return sum(map(float, lines))


def test_our_client_gets_the_same_bits_and_the_queue_is_timed(
    port, server, bundle, authority, rng, monkeypatch, until
):
    images = rng.integers(0, 256, (50, *bundle.card.image_shape), np.uint8)
    before = queued(server)
    found = []
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    for url in (f"https://localhost:{port}", server.url):
        with RemoteEmbedder(
            url, bundle.card.name, token_file=server.token_file, max_images_per_request=9
        ) as remote:
            summary = remote.summarize(images)
            found.append((summary, remote.embed(images, summary)))
    (summary, embeddings), (expected_summary, expected) = found
    assert summary == expected_summary
    assert_array_equal(embeddings.mean, expected.mean, strict=True)
    assert_array_equal(embeddings.log_variance, expected.log_variance, strict=True)
    until(lambda: queued(server) == before + 1 + 6 + 6)  # the card, and six parts of each


def test_a_certificate_that_is_not_trusted_is_one_clear_error(
    port, server, bundle, monkeypatch, tmp_path
):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    where = f"https://localhost:{port}"
    with (
        RemoteEmbedder(where, bundle.card.name, token_file=server.token_file) as remote,
        pytest.raises(ServerUnreachable, match="SSL_CERT_FILE"),
    ):
        _ = remote.card
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(ServerUnreachable, match=r"none\.pem.*cannot be used"):
        RemoteEmbedder(where, bundle.card.name, token_file=server.token_file)


def test_tls_is_1_2_or_later(port, trusted):
    trusted.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", port), 60) as plain:
        assert trusted.wrap_socket(plain, server_hostname="localhost").version() == "TLSv1.2"
    with pytest.deprecated_call():
        trusted.minimum_version = ssl.TLSVersion.TLSv1
        trusted.maximum_version = ssl.TLSVersion.TLSv1_1
    trusted.set_ciphers("DEFAULT@SECLEVEL=0")  # or this side would refuse
    with (
        socket.create_connection(("127.0.0.1", port), 60) as plain,
        pytest.raises(ssl.SSLError, match="alert protocol version"),
    ):
        trusted.wrap_socket(plain, server_hostname="localhost")


def test_plain_http_is_not_answered(port):
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        httpx.get(f"http://127.0.0.1:{port}/ping")


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of what nginx itself refuses, which is said as the server says it."""
    error = answer.json()
    assert set(error) == {"error", "code", "field", "hint", "status", "request_id"}
    assert error["status"] == answer.status_code
    assert error["request_id"] == answer.headers["Metavae-Request-Id"]
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status_code, error["code"]


def test_only_our_routes_are_there_and_each_by_its_own_method(web, bundle):
    name = bundle.card.name
    for path in ("/ping", "/v2", "/v2/health/live", "/v2/health/ready"):
        assert web.get(path).status_code == 200
    for resource in ("card", "limits", "openapi"):
        path = f"/predictions/{name}/1.0/{resource}"
        assert web.get(path).status_code == 200
        assert web.post(path).status_code == 405
    for path in (f"/predictions/{name}", f"/v2/models/{name}/infer"):
        assert web.post(path).json()["code"] == "bad_request"
        assert refusal(web.get(path)) == refusal(web.put(path)) == (405, "bad_method")
    others = ("/", "/models", f"/models/{name}", "/workflows", "/metrics", "/api-description")
    others += (f"/explanations/{name}", f"/predictions/{name}/1.0/nothing", "/token")
    others += (f"/predictions/{name}/../../models", f"/predictions/{name}%2f..%2f..%2fmodels")
    others += (f"/predictions/{name}%0a", f"/predictions/{name}/1.0/card%0A")
    for path in others:
        assert refusal(web.get(path)) == (404, "not_found"), path
    assert web.get("/ping", headers={"Authorization": "Bearer wrong"}).status_code == 400


def test_a_body_above_the_limit_is_413_and_one_at_it_is_read(web, bundle):
    path = f"/predictions/{bundle.card.name}"
    kind = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "2"}
    answer = web.post(path, content=bytes(MAX_REQUEST_BYTES + 1), headers=kind)
    assert refusal(answer) == (413, "too_large")
    at_it = b"{}" + bytes(MAX_REQUEST_BYTES - 2)
    answer = web.post(path, content=at_it, headers=kind)
    assert answer.status_code == 400
    assert answer.json()["code"] == "bad_request"


def test_a_form_is_refused_however_its_type_is_written(web, bundle, port, server, trusted):
    path = f"/predictions/{bundle.card.name}"
    for kind in ("application/x-www-form-urlencoded", "Multipart/Form-Data; boundary=b"):
        assert refusal(web.post(path, content=b"a=b", headers={"Content-Type": kind})) == (
            415,
            "bad_type",
        )
        # httpx would not send it; TorchServe reads it as if the tab were not there.
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += "".join(f"{name}: {text}\r\n" for name, text in server.headers().items())
        head += f"Content-Length: 3\r\nContent-Type:\t{kind}\r\n\r\na=b"
        with (
            socket.create_connection(("127.0.0.1", port), 30) as plain,
            trusted.wrap_socket(plain, server_hostname="localhost") as wrapped,
        ):
            wrapped.sendall(head.encode())
            assert wrapped.recv(100).startswith(b"HTTP/1.1 415 ")


def test_what_is_called_otherwise_is_no_form_to_the_server(web, bundle, rng):
    images = rng.integers(0, 256, (2, *bundle.card.image_shape), np.uint8)
    body, headers = encode_request(context=images)
    for kind in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "a/b, multipart/mixed"}):
        asked = web.build_request(
            "POST", f"/v2/models/{bundle.card.name}/infer", content=body, headers=headers | kind
        )
        if not kind:
            asked.headers.pop("Content-Type", None)
        assert web.send(asked).status_code == 200, kind


def test_a_refusal_names_the_request_and_repeats_nothing_that_is_no_id(web):
    for given, repeated in (("mine-1", True), ('"}', False), ("x" * 129, False)):
        answer = web.get("/models", headers={"X-Request-Id": given})
        assert refusal(answer) == (404, "not_found")
        assert (answer.headers["Metavae-Request-Id"] == given) is repeated


def test_what_is_no_request_is_refused_as_any_other(port, trusted):
    def answered(head: str) -> httpx.Response:
        with (
            socket.create_connection(("127.0.0.1", port), 30) as plain,
            trusted.wrap_socket(plain, server_hostname="localhost") as wrapped,
        ):
            wrapped.sendall(f"{head}\r\n\r\n".encode())
            with wrapped.makefile("rb") as stream:
                status = int(stream.readline().split()[1])
                lines = iter(stream.readline, b"\r\n")
                headers = dict(line.decode().strip().split(": ", 1) for line in lines)
                return httpx.Response(status, headers=headers, content=stream.read())

    host = "Host: localhost\r\nConnection: close"
    assert refusal(answered(f"GET /% HTTP/1.1\r\n{host}")) == (400, "refused")
    assert refusal(answered(f"GET /{'a' * 10_000} HTTP/1.1\r\n{host}")) == (414, "refused")
    assert refusal(answered(f"GET /ping HTTP/1.1\r\n{host}\r\nA: {'a' * 10_000}"))[1] == "refused"
    packed = f"POST /ping HTTP/1.1\r\n{host}\r\nTransfer-Encoding: gzip"
    assert refusal(answered(packed)) == (501, "refused")
    assert refusal(answered(f"GET /ping HTTP/3.0\r\n{host}")) == (505, "refused")


def test_a_server_that_is_not_there_is_one_clear_error(proxy, trusted, settings):
    with proxy(settings.port) as port, httpx.Client(verify=trusted) as web:
        answer = web.get(f"https://localhost:{port}/ping")
    assert refusal(answer) == (502, "unavailable")
    assert answer.headers["Retry-After"] == "1"


def test_a_client_that_stops_in_the_middle_is_sent_away(proxy, server, bundle, trusted):
    with (
        proxy(port_of(server.url), {"client_body_timeout 10s": "client_body_timeout 1s"}) as port,
        socket.create_connection(("127.0.0.1", port), 30) as plain,
        trusted.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        head = f"POST /predictions/{bundle.card.name} HTTP/1.1\r\nHost: localhost\r\n"
        head += "Authorization: any\r\n"
        wrapped.sendall(f"{head}Content-Length: 1000\r\n\r\nhalf".encode())
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := wrapped.recv(1000):
                answer += part
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408")


def test_more_requests_than_the_limit_are_429_with_a_time_to_come_back(proxy, server, trusted):
    fewer = {"rate=100r/s": "rate=1r/m", "burst=200": "burst=2"}
    with (
        proxy(port_of(server.url), fewer) as port,
        httpx.Client(verify=trusted, headers=server.headers()) as web,
    ):
        answers = [web.get(f"https://localhost:{port}/ping") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 2
    assert refusal(answers[-1]) == (429, "too_many_requests")
    assert answers[-1].headers["Retry-After"] == "1"
    assert "Retry-After" not in answers[0].headers


def test_a_request_without_a_token_is_refused_before_its_body_comes(port, trusted):
    with (
        socket.create_connection(("127.0.0.1", port), 30) as plain,
        trusted.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        head = "POST /predictions/a-model HTTP/1.1\r\nHost: localhost\r\n"
        wrapped.sendall(f"{head}Content-Length: 19000000\r\n\r\n".encode())
        answer = wrapped.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b'"code":"unauthorized"' in answer


def test_requests_of_all_addresses_at_a_time_are_as_many_as_the_front_ends_memory_holds(
    proxy, server, trusted
):
    few = {"metavae_all_connections 100": "metavae_all_connections 1"}
    with (
        proxy(port_of(server.url), few) as port,
        socket.create_connection(("127.0.0.1", port), 30) as plain,
        trusted.wrap_socket(plain, server_hostname="localhost") as slow,
        httpx.Client(verify=trusted) as web,
    ):
        head = "POST /predictions/a-model HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        slow.sendall(f"{head}Authorization: any\r\nContent-Length: 10\r\n\r\n".encode())
        assert slow.recv(1000).startswith(b"HTTP/1.1 100 "), "it is being taken"
        answer = web.get(f"https://localhost:{port}/ping")
    assert refusal(answer) == (429, "too_many_requests")
    assert answer.headers["Retry-After"] == "1"


@pytest.fixture
def upstream() -> Iterator[int]:
    """A server that is busy, with a Retry-After of its own for GET, and tells what it was sent."""

    class Busy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = json.dumps({"path": self.path, "from": self.client_address[1]}).encode()
            self.send_response(503)
            self.send_header("Retry-After", "5")
            self.end(body)

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            told = {name.lower(): text for name, text in self.headers.items()}
            told |= {"path": self.path, "body": self.rfile.read(length).hex()}
            self.send_response(503)
            self.end(json.dumps(told).encode())

        def end(self, body: bytes) -> None:
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running.server_port
        running.shutdown()


def test_headers_pass_both_ways_and_connections_are_kept(proxy, upstream, trusted, rng):
    body, headers = encode_request(queries=rng.integers(0, 256, (3, 28, 28), np.uint8))
    sent = headers | {
        "Authorization": "Bearer it",
        "X-Request-Id": "mine",
        "X-Request-Start": "t=1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    anonymous = headers | {"Authorization": "Bearer it"}
    with proxy(upstream) as port, httpx.Client(verify=trusted) as web:
        at = f"https://localhost:{port}"
        first, second = web.get(f"{at}/v2/health/../../ping?x=1"), web.get(f"{at}/ping")
        busy = web.post(f"{at}/predictions/a-model", content=body, headers=sent)
        nameless = web.post(f"{at}/predictions/a-model", content=body, headers=anonymous).json()
    assert first.headers.get_list("Retry-After") == ["5"], "the server's own"
    assert first.json()["path"] == "/ping"
    assert first.json() == second.json(), "over one connection"
    assert busy.headers["Retry-After"] == "1", "where the server has given none"
    told = busy.json()
    assert bytes.fromhex(told.pop("body")) == body
    for name in set(sent) - {"X-Request-Start"}:
        assert told[name.lower()] == sent[name]
    assert re.fullmatch(r"t=\d{10,}\.\d{3}", told["x-request-start"]), "nginx's, not the client's"
    assert re.fullmatch(r"[0-9a-f]{32}", nameless["x-request-id"])
