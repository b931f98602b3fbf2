"""A fake of TorchServe for tests of signals, damage and races: a small process without Java.

It answers the management API over the store that it is given, writes a key file into its working
folder, and starts a child, as TorchServe starts workers. METAVAE_STUB says what it does: `ready`
(at once), `loading` (never ready), `dead` (ends at once), `deaf` (loading, and ignores SIGTERM).
The file `pending`, beside the key file, holds the number of requests that wait.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KEYS = {kind: {"key": f"{kind}-key"} for kind in ("management", "inference", "API")}


def serve(settings: dict, state: str, child: int) -> None:
    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pending = Path("pending")
            waiting = int(pending.read_text()) if pending.exists() else 0
            status = "READY" if state == "ready" else "UNLOADED"
            workers = settings["models"].get(self.path.rpartition("/")[2], {}).get("workers", 0)
            version = {
                "workers": [{"id": "9000", "pid": child, "status": status}] * workers,
                "jobQueueStatus": {"pendingRequests": waiting},
            }
            body = json.dumps([version]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    for port in (settings["port"], settings["port"] + 1):
        server = ThreadingHTTPServer(("127.0.0.1", port), Api)
        threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> None:
    first = Path(sys.argv[1], "config.properties").read_text().partition("\n")[0]
    settings, state = json.loads(first[first.index("{") :]), os.environ.get("METAVAE_STUB", "ready")
    if state == "dead":
        sys.exit("Exception: the fake is dead")
    if state == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "600"])
    Path("key_file.json").write_text(json.dumps(KEYS))
    serve(settings, state, child.pid)
    signal.pause()


if __name__ == "__main__":
    main()
