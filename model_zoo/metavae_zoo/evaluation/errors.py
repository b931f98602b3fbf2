"""What a probe refuses.

MetavaeError (metavae_zoo.errors)
├── BadSettings         settings that are none, or that the data or the model cannot give
└── SeenValues          values that the model may have been trained on
    └── SplitMismatch   ... because it was trained over another split or family
"""

from __future__ import annotations

from metavae_zoo.errors import MetavaeError


class BadSettings(MetavaeError):
    """A probe whose settings are none, or that the data or the model cannot give."""

    code = "bad_settings"

    @classmethod
    def of(cls, field: str, problem: str) -> BadSettings:
        """The error about one setting, by the name of its option."""
        option = f"--{field.replace('_', '-')}"
        return cls(f"{option} {problem}", hint=f"Give another {option}", field=field)


class SeenValues(MetavaeError):
    """A probe of held-out values some of which the model was trained on."""

    code = "seen_values"


class SplitMismatch(SeenValues):
    """A probe of another split or family than the model was trained over."""

    code = "split_mismatch"
