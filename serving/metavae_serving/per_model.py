"""Options of which each model can have its own value: `--workers 2 --workers NAME=4`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

Given = Sequence[tuple[str, Any]]  # a model's name, or "" for all, and the value


class PerModel(click.ParamType):
    """A value of another type, or NAME=VALUE."""

    def __init__(self, inner: click.ParamType) -> None:
        self.inner = inner
        self.name = inner.name

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """How help shows it."""
        choices = self.inner.choices if isinstance(self.inner, click.Choice) else ["N"]
        return f"[NAME=]{'|'.join(choices)}"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """The name ("" for all models) and the value of a word."""
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).rpartition("=")
        if equals and not name:
            self.fail(f"{value!r} names no model before the =", param, ctx)
        return name, self.inner.convert(text, param, ctx)


def value_for(model: str, given: Given) -> Any:
    """What `given` says of a model: the last of its own, else the last for all; None if neither."""
    words = dict(given)
    return words.get(model, words.get(""))


def check_names(option: str, given: Given, models: Sequence[str]) -> None:
    """Raise UsageError for a value of a model that is none of `models`."""
    for name, _ in given:
        if name and name not in models:
            raise click.UsageError(
                f"--{option} is given for {name!r}, which is none of the models:"
                f" {', '.join(models)}"
            )
