"""`metavae-serve`, with the fake of `stub_server` in place of TorchServe."""

from __future__ import annotations

import sys
from pathlib import Path

from metavae_serving.cli import main
from metavae_serving.torchserve import launch
from metavae_serving.torchserve.store import Store

STUB = Path(__file__).with_name("stub_server.py")


def stub_command(store: Store) -> list[str]:
    return [sys.executable, str(STUB), str(store.path)]


if __name__ == "__main__":
    launch.server_command = stub_command
    main()
