"""What the server's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from metavae_serving.archive import pack


@pytest.fixture
def store(bundle, settings, tmp_path) -> Path:
    """A packed store of the test's own, on free ports."""
    pack([bundle], tmp_path / "store", settings)
    return tmp_path / "store"
