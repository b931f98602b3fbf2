"""Claims about the documents: their figures come from files that a command wrote."""

from __future__ import annotations

from pathlib import Path

from metavae_zoo.bundle import open_bundle
from metavae_zoo.cli import results_table
from metavae_zoo.index import read_index, shipped_bundles

README = Path(__file__).parents[1] / "README.md"


def test_the_results_table_is_the_one_of_the_shipped_cards():
    cards = [open_bundle(shipped_bundles() / name).card for name in read_index()]
    head, tail = "<!-- `metavae-zoo list --markdown` -->\n", "\n<!-- end -->"
    table = README.read_text().split(head)[1].split(tail)[0]
    assert table == results_table(cards)


def test_every_picture_of_the_readme_is_there():
    for line in README.read_text().splitlines():
        if line.startswith("!["):
            assert (README.parent / line.split("(")[1].rstrip(")")).is_file()
