"""Our own commands as programs, for packages that may not import each other.

The zoo knows neither training nor client, and training does not know the client: what one needs
of another, it asks the command that users have, and reads the JSON that it prints.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter

from metavae_zoo.bundle import Bundle
from metavae_zoo.card import Accuracy
from metavae_zoo.commit import code_commit
from metavae_zoo.errors import MetavaeError
from metavae_zoo.files import write_whole
from metavae_zoo.parsing import parse_json


class CommandFailed(MetavaeError):
    """One of our commands that is not installed, or did not succeed."""

    code = "command_failed"


class _ProbedValue(BaseModel):
    """What a probe says of one held-out value; `draws` are accuracies, one per context."""

    value: float
    draws: Annotated[list[Accuracy], Field(min_length=1)]
    floors: dict[str, Accuracy]
    floor_draws: dict[str, list[Accuracy]]


class _Measurement(BaseModel):
    """What a probe says of all held-out values."""

    values: Annotated[list[_ProbedValue], Field(min_length=1)]


class _Kept(BaseModel):
    """What is read of a probe that was kept; there is more to one."""

    digest: str
    commit: str


class _KeptByShots(_Kept):
    """Of a protocol with a measurement for each number of labels."""

    by_shots: Annotated[list[_Measurement], Field(min_length=1)]


class _KeptOnce(_Kept, _Measurement):
    """Of a protocol with one measurement."""


_KEPT: TypeAdapter[Any] = TypeAdapter(_KeptByShots | _KeptOnce)


def program_path(program: str) -> Path:
    """Where `program`, such as metavae-client, is installed; raises CommandFailed if it is not."""
    path = Path(sysconfig.get_path("scripts")) / program
    if not path.is_file():
        raise CommandFailed(f"{program} is not installed", hint="`pip install 'metavae[all]'`")
    return path


def probe_command(
    bundle: Bundle, *words: object, family: str | None = None, split: str | None = None
) -> Any:
    """What `metavae-client probe` finds of a bundle; kept beside it, and not measured twice.

    `words` are the probe's options, but for the model, the family and the split; these two are the
    card's own, unless others are given. Beside what the probe prints there is the `commit` that it
    was measured with.
    """
    card = bundle.card
    place = ("--family", family or card.family, "--split", split or card.split)
    words = ("--model", card.name, *place, *words)
    options = json.dumps([card.digest, *map(str, words)])
    kept = bundle.path.parent / "probes" / f"{hashlib.sha256(options.encode()).hexdigest()}.json"
    with suppress(OSError, ValueError):  # none yet, or a damaged one
        found = parse_json(kept.read_text())
        _KEPT.validate_python(found)
        return found
    zoo = bundle.path.parent
    found = run_command("metavae-client", "probe", "--in-process", "--json", *words, zoo=zoo)
    found["commit"] = code_commit()
    write_whole(kept, json.dumps(found).encode())
    return found


def run_command(*words: object, zoo: Path | None = None) -> Any:
    """Run one of our commands, its progress shown, and return the JSON that it prints.

    `zoo` is where it looks for bundles. Raises CommandFailed.
    """
    program, *arguments = map(str, words)
    path = program_path(program)
    given = {"METAVAE_ZOO": str(zoo)} if zoo else {}
    environment = ["env", *(f"{name}={value}" for name, value in given.items())] if given else []
    line = shlex.join([*environment, program, *arguments])
    print(f"$ {line}", file=sys.stderr)
    try:
        done = subprocess.run(
            [path, *arguments],
            stdout=subprocess.PIPE,
            env={**os.environ, **given},
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise CommandFailed(
            f"`{line}` failed with exit code {error.returncode}",
            hint="Its own error is above; mend that, then run the same command again",
        ) from error
    return json.loads(done.stdout)
