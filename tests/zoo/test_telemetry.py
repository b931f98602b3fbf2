"""Claims about what leaves the machine: nothing that nobody asked for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SHOW = "import os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
PACKAGES = ("metavae_zoo", "metavae_client", "metavae_serving.handler", "metavae_training")


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("given", [None, "0"])
def test_the_runtime_sends_no_telemetry_unless_its_user_says_so(package, given):
    environment = {name: one for name, one in os.environ.items() if "TELEMETRY" not in name}
    environment |= {} if given is None else {"ORT_DISABLE_TELEMETRY": given}
    early = "assert 'onnxruntime' not in __import__('sys').modules"
    code = f"import metavae_zoo; {early}; import {package}; {SHOW}"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == (given or "1")
