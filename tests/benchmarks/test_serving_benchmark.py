"""Claims about the serving benchmark: by the real script, against a real TorchServe."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from metavae_serving.torchserve import launch
from served.cases import CASES
from served.load import LoadFailed, Message, run
from served.page import markdown
from soak import Unsound, Watched, _requests, soak

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serving.py"


@pytest.fixture
def answering():
    """A server that answers every POST with this status and body; and what it was sent."""
    came: list[bytes] = []

    def start(status: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                came.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/path"

    servers: list[ThreadingHTTPServer] = []
    yield start, came
    for server in servers:
        server.shutdown()
        server.server_close()


def test_every_client_sends_the_whole_request_and_waits_for_the_whole_reply(answering):
    start, came = answering
    body = bytes(range(256)) * 8000  # more than a socket takes at once
    message = Message.post(start(200, bytes(3_000_000)), body, {"X-One": "1"})
    found = run(message, clients=3, seconds=0.3)
    assert len(found.latencies) == len(came) >= 3
    assert set(came) == {body}
    assert all(0 < latency <= found.seconds for latency in found.latencies)


def test_a_server_that_refuses_is_an_error_and_not_a_fast_answer(answering):
    start, _ = answering
    with pytest.raises(LoadFailed, match="503"):
        run(Message.post(start(503, b"no"), b"x", {}), clients=1, seconds=0.1)


def test_the_script_measures_every_case_against_floor_and_ceiling(bundle, settings, tmp_path):
    out = tmp_path / "serving.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--model", bundle.path, "--port", str(settings.port),
         "--seconds", "0.1", "--rounds", "1", "--contexts", "10", "--out", out],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert [case["case"] for case in result["cases"]] == [str(case) for case in CASES]
    for case in result["cases"]:
        assert set(case["subjects"]) == {"metavae", "no-op handler", "in process"}
        for figures in case["subjects"].values():
            assert 0 < figures["p50_ms"] <= figures["p99_ms"]
            assert all(rate > 0 for rate in figures["images_per_second"])
    assert [one["size"] for one in result["contexts"]] == [10]
    assert result["memory_bytes_per_worker"][0] > 10_000_000
    page = out.with_suffix(".md").read_text()
    assert page == markdown(result)
    assert page in done.stdout
    launch.check_ports(settings)  # nothing is left that listens there


def test_a_page_names_the_gpu_and_the_settings_that_it_was_measured_with():
    result = json.loads((SCRIPT.parent / "results" / "serving.json").read_text())
    assert "`python benchmarks/serving.py --seconds 2 --rounds 5`" in markdown(result)
    result["machine"]["gpu"] = "NVIDIA H100"
    result["settings"] |= {"device": "cuda", "batch_size": 4}
    page = markdown(result)
    assert ", on one NVIDIA H100, batch size 4" in page
    command = "serving.py --device cuda --batch-size 4 --seconds 2 --rounds 5 --out FILE"
    assert f"`python benchmarks/{command}`" in page


def test_what_is_left_is_the_floor_and_the_ceiling_one_after_the_other():
    result = json.loads((SCRIPT.parent / "results" / "serving.json").read_text())
    [case] = result["cases"][:1]
    for name, rate in {"metavae": 100.0, "no-op handler": 300.0, "in process": 600.0}.items():
        case["subjects"][name]["images_per_second"] = [rate] * result["rounds"]
    row = next(line for line in markdown(result).splitlines() if case["case"] in line)
    # 1/300 and 1/600 seconds make 200 images a second, of which 100 are half.
    assert [cell.strip() for cell in row.split("|")][5:7] == ["0.17", "0.50"]


def test_a_short_soak_finds_no_worker_that_grows(server, bundle):
    answered, watched = soak(bundle, server.store, 6.0, print)
    assert set(answered) == {200, 400, 413}
    assert answered.total() > 100
    java, *workers = watched  # whose memory is Java's to grow, for longer than this
    assert len(java.memory) >= 8
    for one in workers:
        one.check()


def test_a_soak_of_wrong_replies_is_told(server, bundle, monkeypatch):
    requests = _requests(bundle)
    requests[0].outputs["embedding"][0, 0] += 1
    monkeypatch.setattr("soak._requests", lambda _: requests)
    with pytest.raises(Unsound, match=r"replies are wrong \({'200 to request 0, of 200': \d+}\)"):
        soak(bundle, server.store, 2.0, print)


def test_what_grows_is_named():
    grown = Watched("worker 1", psutil.Process())
    grown.memory = [100_000_000 * (1 + step) for step in range(40)]
    grown.files = [10] * 40
    with pytest.raises(Unsound, match="memory of worker 1 grew"):
        grown.check()
    grown.memory, grown.files = [100_000_000] * 40, list(range(0, 400, 10))
    with pytest.raises(Unsound, match="open files of worker 1 grew"):
        grown.check()
