"""Claims about the comparison with other servers; none of them is installed here."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from metavae_serving.settings import ModelSettings
from served.peers import environments
from served.peers.catalog import PEERS, Peer, PeerFailed
from served.peers.comparison import ASKED, Comparison, Job
from served.peers.environments import make_environment
from served.peers.page import FLOOR, MANY, ONE, markdown
from served.serving import serving

RAW = next(peer.wire for peer in PEERS if peer.name == "LitServe")
SERVER = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from served.peers.model import Model, port

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        reply = model.answer(self.rfile.read(int(self.headers["Content-Length"])))
        {spoil}
        head = f"HTTP/1.1 200 OK\\r\\nContent-Length: {{len(reply)}}\\r\\n\\r\\n"
        self.wfile.write(head.encode() + reply)

model = Model()
ThreadingHTTPServer(("127.0.0.1", port()), Handler).serve_forever()
"""


def peer_of(code: str) -> Peer:
    return Peer("Tiny", "tiny", "numpy", ("tiny>=1,<2",), "/embed", RAW, ("-c", code))


def own_server(spoil: str = "") -> Peer:
    peer = peer_of("")
    # Formatted once here, and once more when it is started.
    code = SERVER.format(spoil=spoil).replace("{", "{{").replace("}", "}}")
    return replace(peer, arguments=("-c", code))


@pytest.fixture
def comparison(bundle, server):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return Comparison(Job(bundle, threads=1), {ONE: server.store}, port, rounds=2, seconds=0.02)


def test_a_peer_is_measured_beside_us_and_gone_afterwards(comparison):
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    found = comparison.measure(own_server(), Path(sys.executable))
    assert found["failure"] is None
    assert found["version"] == found["packages"]["numpy"]
    assert [case["case"] for case in found["cases"]] == [str(case) for case in ASKED]
    for case in found["cases"]:
        assert list(case["subjects"]) == [ONE, "Tiny"]
        for figures in case["subjects"].values():
            assert len(figures["images_per_second"]) == 2
            assert min(figures["images_per_second"]) > 0
    after = {process.pid for process in psutil.Process().children(recursive=True)}
    assert after <= before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", comparison.port))


def test_the_handler_that_does_nothing_is_measured_beside_us(comparison, bundle):
    port = comparison.port
    with serving(bundle, ModelSettings(), port, floor=True) as store:
        found = replace(comparison, stores={ONE: store}).measure_floor(FLOOR)
    assert [case["case"] for case in found] == [str(case) for case in ASKED]
    for case in found:
        assert list(case["subjects"]) == [ONE, FLOOR]
        assert all(min(one["images_per_second"]) > 0 for one in case["subjects"].values())


def test_a_peer_that_answers_with_other_bits_is_not_measured(comparison):
    spoiled = own_server("reply = bytes([reply[0] ^ 1]) + reply[1:]")
    found = comparison.measure(spoiled, Path(sys.executable))
    assert found["failure"] == "its mean of 1 queries is not that of the model"
    assert found["cases"] == []


def test_a_peer_that_does_not_start_is_reported_with_its_last_words(comparison):
    found = comparison.measure(peer_of("raise SystemExit('no such cord')"), Path(sys.executable))
    assert found["failure"] == "it ended with 1 when it was started: no such cord"


def test_a_peer_that_cannot_be_installed_is_reported_with_pips_words(comparison, tmp_path):
    made = tmp_path / "tiny" / "bin" / "python"
    with pytest.raises(PeerFailed, match="cannot be installed") as failed:
        environments._run([sys.executable, "-c", "raise SystemExit('ERROR: no such package')"])
    found = comparison.measure(peer_of(""), failed.value)
    assert found["failure"] == "it cannot be installed: ERROR: no such package"
    assert found["version"] is None
    assert not made.exists()


def test_an_environment_is_made_once_and_anew_for_other_requirements(tmp_path, monkeypatch):
    ran: list[list[str]] = []

    def run(command):
        ran.append([str(one) for one in command])
        return ""

    monkeypatch.setattr(environments, "_run", run)
    python = make_environment(own_server(), tmp_path)
    assert python == tmp_path / "tiny" / "bin" / "python"
    assert ran[0][1:3] == ["-m", "venv"]
    assert "tiny>=1,<2" in ran[1]
    make_environment(own_server(), tmp_path)
    assert len(ran) == 2
    make_environment(replace(own_server(), requirements=("tiny>=2,<3",)), tmp_path)
    assert len(ran) == 4


def made_up_case(figures: dict[str, tuple[float, float]]) -> dict:
    subjects = {
        name: {"images_per_second": [speed] * 3, "p50_ms_of_rounds": [p50] * 3}
        for name, (speed, p50) in figures.items()
    }
    return {"case": "1 queries, 1 client", "subjects": subjects}


def made_up(rate: float, latency: float, **peer: object) -> dict:
    """A result in which a peer has this rate and latency, and metavae 1000 and 2.0."""
    figures = {ONE: (1000.0, 2.0), "LitServe": (rate, latency), MANY: (1500.0, 2.5)}
    case, floor = made_up_case(figures), made_up_case({ONE: (1000.0, 2.0), FLOOR: (2000.0, 1.0)})
    litserve = {"name": "LitServe", "wire": "raw", "version": "0.2", "failure": None}
    return {
        "machine": {
            "processor": "a processor", "cores": 2, "commit": "c0ffee", "load_average": 0.1,
            "versions": {"torchserve": "0.12"},
        },
        "model": "metavae-some", "threads": 2, "rounds": 3, "seconds": 1.0, "batch_size": 4,
        "warm_up_turns": 20,
        "floor": [floor],
        "peers": [litserve | {"cases": [case]} | peer],
    }  # fmt: skip


def test_the_page_gives_ratios_of_ours_over_the_peers():
    page = markdown(made_up(500.0, 4.0))
    assert "500 (2.00)" in page
    assert "4.00 (0.50)" in page
    assert "500 (3.00)" in page
    assert "Nowhere in this run." in page
    assert "Not measured" not in page
    assert "metavae on TorchServe" in page
    assert "| no-op handler | 2,000 (0.50) |" in " ".join(page.split())
    assert "A handler that does nothing would meet it in all 1 cases." in page


def test_the_page_says_where_torchserve_alone_is_too_slow():
    page = markdown(made_up(1600.0, 4.0))
    assert "misses it itself in 1 of 1 cases" in page
    assert "- LitServe, 1 case(s): 1.25 to 1.25 times the images per second." in page


def test_the_page_says_where_a_peer_is_ahead():
    page = markdown(made_up(2000.0, 1.0))
    assert (
        "- LitServe, 1 queries, 1 client: 2.00 times the images per second, 0.50 of the median"
        " latency." in page
    )


def test_the_page_names_a_peer_that_was_not_measured():
    result = made_up(1.0, 1.0)
    failed = {"name": "Ray Serve", "wire": "raw", "version": None, "cases": []}
    result["peers"].append(failed | {"failure": "it cannot be installed: ERROR: no"})
    page = markdown(json.loads(json.dumps(result)))
    assert "- Ray Serve: it cannot be installed: ERROR: no." in page
    assert page.count("Ray Serve") == 5  # in the list of peers, each table, and here
