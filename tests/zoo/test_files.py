"""Claims about folders that take the place of others: nothing is lost, and nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from metavae_zoo.files import replacing_folder

# Writes half of a folder, or replaces one and is killed between the two steps of that.
KILLED = """
import os, sys, signal
from pathlib import Path
from metavae_zoo.files import replacing_folder

replace = os.replace
def replace_and_die(source, target):
    replace(source, target)
    os.kill(os.getpid(), signal.SIGKILL)

with replacing_folder(Path(sys.argv[1])) as scratch:
    (scratch / "new").touch()
    if sys.argv[2] == "while it writes":
        os.kill(os.getpid(), signal.SIGKILL)
    os.replace = replace_and_die
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "precious").touch()
    return tmp_path / "zoo"


def test_a_disk_that_fails_in_the_middle_of_a_replacement_loses_nothing(
    folder, tmp_path, monkeypatch
):
    replace, calls = os.replace, []

    def failing(source, target):
        calls.append(source)
        if len(calls) > 1:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="Input/output"), replacing_folder(folder):
        pass
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["precious"]


@pytest.mark.parametrize("moment", ["while it writes", "between the steps"])
def test_what_a_killed_process_left_is_put_back_or_removed(folder, moment):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder), moment], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(folder.parent.iterdir())) > 1 or not folder.exists()
    with replacing_folder(folder) as scratch:
        assert (folder / "precious").exists(), "put back before anything else"
        assert list(scratch.iterdir()) == []
        (scratch / "newer").touch()
    assert [path.name for path in folder.parent.rglob("*")] == ["zoo", "newer"]


# Replaces a folder over and over, beside others that do the same.
REPLACING = """
import sys
from pathlib import Path
from metavae_zoo.files import replacing_folder

for _ in range(200):
    with replacing_folder(Path(sys.argv[1])) as scratch:
        (scratch / "new").touch()
"""


def test_processes_that_replace_one_folder_at_once_all_succeed(folder):
    command = [sys.executable, "-c", REPLACING, str(folder)]
    replacing = [subprocess.Popen(command) for _ in range(4)]
    assert [one.wait() for one in replacing] == [0] * 4
    assert [path.name for path in folder.parent.rglob("*")] == ["zoo", "new"]


def test_a_block_that_fails_leaves_the_folder_as_it_was(folder):
    def failing():
        with replacing_folder(folder) as scratch:
            (scratch / "newer").touch()
            (scratch / "missing").read_bytes()

    with pytest.raises(FileNotFoundError):
        failing()
    assert [path.name for path in folder.parent.rglob("*")] == ["zoo", "precious"]
