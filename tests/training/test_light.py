"""Claims about what a command loads: help, lists and errors about names take no heavy library."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from metavae_client.cli import main as client
from metavae_serving.cli import main as serve
from metavae_training.cli import main as train
from metavae_zoo.cli import main as zoo

COMMANDS = {"metavae_training": train, "metavae_serving": serve, "metavae_zoo": zoo}
COMMANDS |= {"metavae_client": client}
HEAVY = {"torch", "sklearn", "scipy", "matplotlib", "onnxruntime"}

_RUN = """
import json, sys
from importlib import import_module
words = json.loads(sys.argv[1])
for package, *arguments in words:
    main = import_module(package + ".cli").main
    try:
        main(arguments)
    except SystemExit:
        pass
print(json.dumps([name for name in sys.modules if "." not in name]))
"""


def loaded(*calls: list[str]) -> tuple[set[str], str]:
    """The heavy libraries that commands have loaded in a process of their own, and its stderr."""
    command = [sys.executable, "-c", _RUN, json.dumps(calls)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return HEAVY & set(json.loads(done.stdout.splitlines()[-1])), done.stderr


def helps(package: str, command: click.Command, *names: str) -> list[list[str]]:
    """The words that ask for help of a command and of everything below it."""
    below = command.commands.items() if isinstance(command, click.Group) else ()
    found = [call for name, one in below for call in helps(package, one, *names, name)]
    return [[package, *names, "--help"], *found]


@pytest.mark.parametrize("package", COMMANDS)
def test_help_of_every_command_loads_no_heavy_library(package):
    calls = helps(package, COMMANDS[package])
    assert len(calls) > 4
    assert loaded(*calls) == (set(), "")


def test_lists_and_a_dry_run_load_no_heavy_library(tmp_path):
    sweep = ["sweep", "metavae-digits-*", "--dry-run", "--runs", str(tmp_path)]
    calls = [["metavae_training", "list"], ["metavae_training", *sweep], ["metavae_zoo", "list"]]
    assert loaded(*calls) == (set(), "")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["metavae_training", "run", "metavea-mnist"], "no recipe 'metavea-mnist'"),
        (["metavae_training", "sweep", "metavea-*"], "no recipe 'metavea-*'"),
        (["metavae_training", "paper", "table2", "--models", "metavea"], "no model 'metavea'"),
        (["metavae_training", "paper", "table2", "--families", "mnist-x"], "no family 'mnist-x'"),
        (
            ["metavae_client", "probe", "--in-process", "--split", "contigous"],
            "no split 'contigous'",
        ),
        (
            ["metavae_client", "probe", "--split", "sparse", "--family", "mnist-x"],
            "no family 'mnist-x'",
        ),
    ],
)
def test_errors_about_names_load_no_heavy_library(words, says):
    heavy, told = loaded(words)
    assert heavy == set()
    assert says in told
