"""Claims about where a server is, and what the environment says of the way there."""

from __future__ import annotations

import socket
import threading

import pytest

from metavae_client.errors import BadReply, ModelNotNamed, ServerUnreachable, Unauthorized
from metavae_client.remote import RemoteEmbedder
from metavae_client.transport.address import management_url, tokens_for, url_of_store
from metavae_client.transport.tokens import Tokens
from metavae_zoo.network import BadEnvironment
from metavae_zoo.places import token_file


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
    ("variable", "value", "url"),
    [
        ("HTTP_PROXY", "foo://me:hunter2@x", "http://192.0.2.1:8080"),
        ("ALL_PROXY", "socks4://x", "http://192.0.2.1:8080"),
        ("SSL_CERT_FILE", "/none/x", "https://127.0.0.1:8443"),
        ("SSLKEYLOGFILE", "/none/x", "https://127.0.0.1:8443"),
    ],
)
def test_a_variable_that_cannot_be_used_is_one_error_that_names_it(
    monkeypatch, variable, value, url
):
    monkeypatch.setenv(variable, value)
    with RemoteEmbedder(url, "any") as remote, pytest.raises(BadEnvironment) as refusal:
        _ = remote.card
    assert variable in refusal.value.message
    assert "hunter2" not in str(refusal.value)


def test_a_proxy_is_not_for_this_machine(monkeypatch, fake, local):
    monkeypatch.setenv("HTTP_PROXY", "foo://x")
    with RemoteEmbedder(fake.url, local.card.name) as remote:
        assert remote.card == local.card


def test_a_dead_proxy_is_no_dead_server(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "::1/128")
    with (
        RemoteEmbedder("http://192.0.2.1:8080", "any") as remote,
        pytest.raises(ServerUnreachable, match="the proxy of http_proxy does not answer") as error,
    ):
        _ = remote.card
    assert "metavae-serve start" not in str(error.value)


def test_a_redirect_is_told_with_its_target(fake, local, images):
    target = "https://login.example.org/?next=x"
    fake.trouble = lambda request, before: (307, {"Location": target}, b"")
    with (
        RemoteEmbedder(fake.url, local.card.name) as remote,
        pytest.raises(BadReply, match=r"redirects to https://login.example.org/\?next=x"),
    ):
        remote.summarize(images[:2])


def test_the_port_is_that_of_the_store_whose_key_is_read(tmp_path, monkeypatch):
    store = tmp_path / "store"
    key = token_file(store)
    key.parent.mkdir(parents=True)
    (store / "config.properties").write_text("# ours\ninference_address=http://0.0.0.0:9123\n")
    monkeypatch.setenv("METAVAE_STORE", str(store))
    assert url_of_store(tokens_for(None)) == "http://127.0.0.1:8080", "it has no key"
    key.write_text("{}")
    assert url_of_store(tokens_for(None)) == "http://127.0.0.1:9123"
    assert url_of_store(tokens_for(None, token="given")) == "http://127.0.0.1:8080"
    monkeypatch.setenv("METAVAE_STORE", str(tmp_path / "none"))
    assert url_of_store(tokens_for(None, path=key)) == "http://127.0.0.1:9123"
    assert url_of_store(tokens_for(None, path=tmp_path / "key_file.json")).endswith(":8080")


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
    ],
    ids=["nested", "long"],
)
def test_a_token_file_that_is_none_is_told(tmp_path, make, says):
    make(tmp_path / "key_file.json")
    with pytest.raises(Unauthorized, match=says):
        Tokens(path=tmp_path / "key_file.json").read("inference")
