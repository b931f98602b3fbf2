"""Claims about closing a client while it is at work over TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme

from metavae_client.errors import Closed
from metavae_client.transport.connection import Connection, Patience
from metavae_client.transport.tokens import Tokens


def test_closing_wakes_who_waits_over_tls_and_lets_nothing_go_in_the_clear(tmp_path, monkeypatch):
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    asked, ended = threading.Event(), threading.Event()

    def never_answer(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        with context.wrap_socket(accepted, server_side=True) as stream:
            stream.recv(1000)
            asked.set()
            ended.wait(60)

    # Which takes the keys away before it shuts anything: what another thread sends then is plain.
    monkeypatch.setattr(ssl.SSLSocket, "shutdown", None)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(2) as pool:
        serving = pool.submit(never_answer, listener)
        url = f"https://localhost:{listener.getsockname()[1]}"
        asking = Connection(url, Tokens(token="secret"), "inference", Patience(60, 60))
        waiting = pool.submit(asking.send, "GET", "/")
        assert asked.wait(60)
        asking.close()
        with pytest.raises(Closed, match="is closed"):
            waiting.result(timeout=20)
        ended.set()
        serving.result()
