"""The two parts of a data set, which share no image."""

from typing import Literal

Part = Literal["train", "test"]
