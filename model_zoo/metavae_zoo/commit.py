"""Which code is running: what a measured number has beside it."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from metavae_zoo import __version__

# Whatever a number may depend on.
_CODE = [f":(glob){folder}/**/*.py" for folder in ("training", "model_zoo", "client", "benchmarks")]


@cache
def code_commit() -> str:
    """The commit of this code, with `-dirty` if any of it was changed; else metavae's version.

    Looked up once: a process goes on with the code that it has loaded.
    """
    here = Path(__file__)

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", here.parent, *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # not some repository around an installation
        top = git("rev-parse", "--show-toplevel")
        changed = git("-C", top, "status", "--porcelain", "--", *_CODE)
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return f"metavae {__version__}"
