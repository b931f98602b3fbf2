"""Claims about the commands that errors and documents name."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_nothing_says_to_install_metavae_from_a_registry():
    """The name is not ours there."""
    places = [*ROOT.glob("*.md"), *ROOT.glob("docs/*"), ROOT / "Dockerfile", ROOT / "demo.sh"]
    for package in ("training", "serving", "model_zoo", "client", "benchmarks"):
        places += ROOT.glob(f"{package}/**/*.py")
    wrong = re.compile(r"pip install (-U |--upgrade )?['\"]?metavae")
    for path in (path for path in places if path.is_file()):
        assert not wrong.search(path.read_text(errors="ignore")), path
