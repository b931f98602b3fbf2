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
        assert {path.name for path in folder.parent.iterdir()} == {"zoo", scratch.name}
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


def test_what_another_user_left_hinders_nobody(folder, monkeypatch):
    name = ".zoo.metavae-abcdefgh"
    left = [folder.parent / f"{name}.new", folder.parent / f"{name}.old"]
    left[0].mkdir()
    os.mkfifo(left[1])
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with replacing_folder(folder) as scratch:
        (scratch / "newer").touch()
    assert (folder / "newer").exists()
    assert all(one.exists() for one in left)
    monkeypatch.undo()
    os.unlink(left[1])
    with replacing_folder(folder):
        pass
    assert list(folder.parent.iterdir()) == [folder]


def test_what_another_put_beside_a_leftover_is_not_put_back(folder):
    name = ".zoo.metavae-abcdefgh"
    (folder.parent / f"{name}.new").mkdir()
    os.symlink(folder, folder.parent / f"{name}.old")  # no folder of ours
    gone = folder.rename(folder.with_name("away"))
    with replacing_folder(folder):
        assert not folder.exists()
    assert list(folder.iterdir()) == []
    assert (gone / "precious").exists()


def test_what_others_are_at_work_on_is_left_alone(folder):
    others = [
        folder.parent / name
        for name in (".zoo.20261127.old", ".zoo.previous.old", ".zoo.metavae-old")
    ]
    for other in others:
        other.mkdir()
    with replacing_folder(folder) as first, replacing_folder(folder) as second:
        assert first.exists()
        assert second.exists()
    assert all(other.exists() for other in others)
    assert {path.name for path in folder.parent.iterdir()} == {"zoo"} | {
        other.name for other in others
    }
