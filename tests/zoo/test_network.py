"""Claims about the environment's proxies and certificates, and about what is said of a failure."""

from __future__ import annotations

import socket
import ssl
import threading

import httpx
import pytest
import trustme

from metavae_zoo import network
from metavae_zoo.network import BadEnvironment, EnvironmentTransport, explain

ELSEWHERE = "http://192.0.2.1:8080"  # an address for documentation: nothing answers there
DEAD = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)


def get(url: str) -> httpx.Response:
    with httpx.Client(transport=EnvironmentTransport(), timeout=5) as client:
        return client.get(url)


def cause(url: str) -> str:
    """What is said of a connection that fails."""
    with pytest.raises(httpx.TransportError) as failure:
        get(url)
    message, _ = explain(url, failure.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize(
    ("variable", "value", "url", "says"),
    [
        ("HTTP_PROXY", "foo://me:hunter2@x", ELSEWHERE, "http://HOST:PORT"),
        ("HTTP_PROXY", "http://me:hunter2@[::1", ELSEWHERE, "http://HOST:PORT"),
        ("ALL_PROXY", "socks4://me:hunter2@x", ELSEWHERE, "http://HOST:PORT"),
        ("HTTPS_PROXY", "http://x:port", "https://192.0.2.1", "http://HOST:PORT"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_told_by_its_variable(
    monkeypatch, upper, variable, value, url, says
):
    variable = variable if upper else variable.lower()
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadEnvironment) as refusal:
        get(url)
    assert variable in refusal.value.message
    assert says in refusal.value.hint
    assert "hunter2" not in str(refusal.value)


def test_a_socks_proxy_without_its_package_says_what_to_install(monkeypatch):
    def missing(**_: object) -> None:
        raise ImportError("Using SOCKS proxy, but the 'socksio' package is not installed.")

    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setattr(network.httpx, "HTTPTransport", missing)
    with pytest.raises(BadEnvironment, match=r"ALL_PROXY .* `pip install 'httpx\[socks\]'`"):
        get(ELSEWHERE)


@pytest.mark.parametrize("exempt", ["", "::1/128", "fd00::/8, 10.0.0.0/8", "example.org,", "[::1"])
def test_a_dead_proxy_is_no_dead_server(monkeypatch, exempt):
    monkeypatch.setenv("NO_PROXY", exempt)
    monkeypatch.setenv("HTTP_PROXY", DEAD)
    monkeypatch.setenv("HTTPS_PROXY", DEAD)
    assert "the proxy of HTTP_PROXY does not answer" in cause(ELSEWHERE)
    assert "the proxy of HTTPS_PROXY does not answer" in cause("https://192.0.2.1")


@pytest.mark.parametrize(
    ("url", "exempt", "direct"),
    [
        ("http://192.0.2.1", "192.0.2.1", True),
        ("http://192.0.2.1", "192.0.2.0/24", True),
        ("http://192.0.2.1", "10.0.0.0/8, 192.0.2.1", True),
        ("http://[2001:db8::1]:80", "2001:db8::/32", True),
        ("http://[2001:db8::1]:80", "2001:db8::1", True),
        ("http://a.example.org", "example.org", True),
        ("http://a.example.org", ".Example.org", True),
        ("http://a.example.org:81", "a.example.org:81", True),
        ("http://a.example.org", "*", True),
        ("http://127.0.0.1", "", True),
        ("http://localhost", "", True),
        ("http://[::1]", "", True),
        ("http://192.0.2.1", "192.0.3.0/24", False),
        ("http://an-example.org", "example.org", False),
        ("http://192.0.2.1", "::1/128", False),
    ],
)
def test_no_proxy_names_hosts_domains_and_networks(monkeypatch, url, exempt, direct):
    monkeypatch.setenv("http_proxy", DEAD)
    monkeypatch.setenv("NO_PROXY", exempt)
    assert (network._proxy(httpx.URL(url))[1] is None) == direct


def test_a_proxy_that_refuses_is_told(monkeypatch):
    def refuse() -> None:
        accepted, _ = listener.accept()
        with accepted:
            accepted.recv(1000)
            accepted.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse)
        thread.start()
        monkeypatch.setenv("ALL_PROXY", f"127.0.0.1:{listener.getsockname()[1]}")
        assert "the proxy of ALL_PROXY refuses it (403 Forbidden)" in cause("https://192.0.2.1")
        thread.join()


def test_a_dead_server_is_told_as_one():
    assert "no server answers at http://127.0.0.1:9 (" in cause(DEAD)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSLKEYLOGFILE"])
def test_a_file_of_tls_that_cannot_be_used_is_told_by_its_variable(monkeypatch, tmp_path, variable):
    for path in (tmp_path / "none" / "x", tmp_path):
        monkeypatch.setenv(variable, str(path))
        with pytest.raises(BadEnvironment, match=rf"{path}, which is {variable}, cannot be used"):
            get("https://127.0.0.1:9")
        assert "no server answers" in cause(DEAD), "which needs no certificates"


def test_a_file_without_certificates_is_told(monkeypatch, tmp_path):
    (tmp_path / "empty.pem").write_text("none\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "empty.pem"))
    with pytest.raises(BadEnvironment, match="which is SSL_CERT_FILE, cannot be used"):
        get("https://127.0.0.1:9")


def test_a_certificate_that_is_not_trusted_is_told_with_the_variable(monkeypatch, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)

    def serve() -> None:
        accepted, _ = listener.accept()
        with accepted, pytest.raises(OSError, match=r"(?i)alert|EOF|reset"):
            context.wrap_socket(accepted, server_side=True)

    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"https://localhost:{listener.getsockname()[1]}"
        said = cause(url)
        thread.join()
    assert f"the certificate of {url} is not trusted by SSL_CERT_DIR={tmp_path}" in said
