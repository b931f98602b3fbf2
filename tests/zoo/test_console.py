"""Claims about what the command lines share: errors of the system are one line, with what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from metavae_zoo.console import PATH, ShowsErrors


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device. Free some"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), "File too large. Free some space"),
        (OSError(errno.EROFS, "Read-only", "/there"), "/there: Read-only. Give another place"),
        (FileExistsError(errno.EEXIST, "File exists", "/it"), "/it: File exists. A file is in"),
    ],
)
def test_errors_of_the_system_are_one_line_with_what_to_do(error, says):
    @click.command(cls=ShowsErrors)
    def failing() -> None:
        raise error

    result = CliRunner().invoke(failing)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {says}")
    assert result.stderr.count("\n") == 1


def test_a_bug_keeps_its_traceback():
    @click.command(cls=ShowsErrors)
    def failing() -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    assert isinstance(CliRunner().invoke(failing).exception, OSError)


def test_an_empty_path_is_refused_and_not_taken_for_the_working_folder():
    @click.command()
    @click.option("--out", type=PATH)
    def run(out: Path | None) -> None:
        click.echo(repr(out))

    refused = CliRunner().invoke(run, ["--out", ""])
    assert (refused.exit_code, "an empty path was given" in refused.stderr) == (2, True)
    assert CliRunner().invoke(run, ["--out", "here"]).stdout == f"{Path('here')!r}\n"
    assert CliRunner().invoke(run, []).stdout == "None\n"
