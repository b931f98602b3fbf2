"""The meta-distributions: families of related image distributions that models train over.

`family(name)` returns one; `FAMILIES` lists them all. Training and probe read the same family, so
that they agree on which values are seen and which are held out.
"""

from metavae_zoo.errors import UnknownName
from metavae_zoo.families.axes import ROTATION, SCALE, SKEW
from metavae_zoo.families.digits import Digits
from metavae_zoo.families.family import Family, Split
from metavae_zoo.families.mnist import Mnist
from metavae_zoo.families.parts import Part
from metavae_zoo.families.scanner import AFFINE, CAMERA, PLAIN, SCANNER

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("mnist-rotation", Mnist(), ROTATION),
        Family("mnist-scale", Mnist(), SCALE),
        Family("mnist-skew", Mnist(), SKEW),
        Family("digits-rotation", Digits(), ROTATION),
        Family("digits-scale", Digits(), SCALE),
        Family("digits-skew", Digits(), SKEW),
        Family("mnist-affine", Mnist(), AFFINE),
        Family("mnist-scanner", Mnist(), SCANNER),
        Family("mnist-camera", Mnist(), CAMERA),
        Family("digits-affine", Digits(), AFFINE),
        Family("digits-scanner", Digits(), SCANNER),
        Family("digits-camera", Digits(), CAMERA),
        Family("mnist", Mnist(), PLAIN),
        Family("digits", Digits(), PLAIN),
    )
}


def family(name: str) -> Family:
    """Return the family of this name, or raise UnknownName with the nearest one."""
    try:
        return FAMILIES[name]
    except KeyError:
        raise UnknownName(
            "family", name, FAMILIES, f"the families are {', '.join(FAMILIES)}"
        ) from None


__all__ = ["FAMILIES", "Family", "Part", "Split", "family"]
