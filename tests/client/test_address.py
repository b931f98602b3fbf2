"""Claims about where a server is, and what the environment says of the way there."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from metavae_client.errors import ModelNotNamed, ServerUnreachable, Unauthorized
from metavae_client.remote import RemoteEmbedder
from metavae_client.transport.address import management_url
from metavae_client.transport.tokens import Tokens


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "", "ftp://here", "http://", "http://a..b", "http://xn--/"]
)
def test_what_is_no_url_is_told(url):
    with pytest.raises(ServerUnreachable, match="not the URL"):
        RemoteEmbedder(url, "any")


def test_a_port_that_does_not_speak_http_is_one_clear_error_at_once(bundle):
    """gRPC's, above all, which answers with frames of its own."""
    asked = []

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(1000))
            connection.sendall(b"\0\0\x18\x04\0\0\0\0\0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with (
            RemoteEmbedder(url, bundle.card.name) as remote,
            pytest.raises(ServerUnreachable, match=r"does not speak HTTP.*grpc://"),
        ):
            _ = remote.card
        thread.join()
    assert len(asked) == 1


def test_a_url_with_a_password_is_refused_and_not_shown():
    with pytest.raises(ServerUnreachable, match="a user or a password") as refusal:
        RemoteEmbedder("http://me:hunter2@127.0.0.1:8080", "any")
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("port", [0, 65_536, 93_536])
def test_a_port_that_there_is_not_is_told(port):
    with pytest.raises(ServerUnreachable, match=f"port {port}, expected 1 to 65535"):
        RemoteEmbedder(f"http://127.0.0.1:{port}", "any")


def test_the_last_port_has_no_management_api_after_it():
    with pytest.raises(ServerUnreachable, match="--management-url"):
        management_url("http://127.0.0.1:65535")


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("HTTP_PROXY", "foo://me:hunter2@x", "http://HOST:PORT"),
        ("HTTP_PROXY", "http://me:hunter2@[::1", "http://HOST:PORT"),
        ("NO_PROXY", "::1/128", "none of IPv6's ranges"),
    ],
)
def test_proxies_that_cannot_be_used_are_told_without_what_they_are(
    monkeypatch, variable, value, says
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ServerUnreachable) as refusal:
        RemoteEmbedder("http://192.0.2.1:8080", "any")
    assert variable in str(refusal.value)
    assert says in str(refusal.value)
    assert "hunter2" not in str(refusal.value)
    RemoteEmbedder("http://127.0.0.1:8080", "any").close()  # which no proxy is for


def test_a_file_of_tls_that_cannot_be_used_is_told_by_its_variable(monkeypatch, tmp_path):
    for variable in ("SSL_CERT_FILE", "SSLKEYLOGFILE"):
        with monkeypatch.context() as environment:
            environment.setenv(variable, str(tmp_path / "none" / "x"))
            with pytest.raises(ServerUnreachable, match=f"none/x, which is {variable}, cannot"):
                RemoteEmbedder("https://127.0.0.1:8443", "any")


@pytest.mark.parametrize("name", ["", "..", "a\nb", "\udcff", "\x1b[2J", "a" * 100_000])
def test_what_can_be_no_name_of_a_model_is_told_in_one_short_line(name):
    with pytest.raises(ModelNotNamed, match="is no name of a model") as refusal:
        RemoteEmbedder("http://127.0.0.1:8080", name)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda file: file.write_text("[" * 200_000), "no 'inference' key in it"),
        (
            lambda file: file.write_text('{"inference": {"key": "%s"}}' % ("k" * 5000)),
            "1000 at most",
        ),
        (lambda file: os.mkfifo(file), "cannot be read"),
    ],
    ids=["nested", "long", "pipe"],
)
def test_a_token_file_that_is_none_is_told(tmp_path, make, says):
    make(tmp_path / "key_file.json")
    with pytest.raises(Unauthorized, match=says):
        Tokens(path=tmp_path / "key_file.json").read("inference")
