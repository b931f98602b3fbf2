"""What a model infers of a context's site: the numbers of the output `site`, by name and in words.

A site shows the position q of the reference at B q + s: canonical(q) = observed(B q + s). Positions
are in pixels from the image's centre, x to the right and y down. The reference is the site that the
model was trained on; its own warp B is the identity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metavae_zoo.bundles.card import ModelCard
from metavae_zoo.embedding.embedder import check_site
from metavae_zoo.errors import BadBundle

UNSURE = 0.5  # a 90% quantile of the warp's error above which the site counts as unsure
FEW = 5  # images; a context of fewer rarely tells its site
_MARGIN = 1.05  # a warp whose singular values leave the prior's range by more is not believed
_LIGHT_INK = (
    0.9  # of the reference's brightness, which the brightest grey level stands for at least
)

# What differs from the reference by less is not mentioned.
_ANGLE = 2.0  # degrees
_SIZE = 1.05
_STRETCH = 1.1
_SHIFT = 0.5  # pixels
_CONTRAST = 0.95
_TILT = 0.05  # of perspective, and of light

_MIRROR = np.diag([-1.0, 1.0])  # left and right are exchanged
_DARK, _BRIGHT = 0.05, 0.95  # brightness of the reference between which contrast is measured


@dataclass(frozen=True, eq=False)
class Site:
    """The parameters of a context's site, as a model inferred them.

    warp: B, [2, 2]; shift: s in pixels, [2]. perspective: [2], per half the image's side, and
    light: [2], the share of brightness by which it changes over half the side, are None for a
    model whose prior has none. `levels` are grey levels of the site (0-255), `knots` the
    brightness of the reference (0-1) that each becomes; both are empty for a model without them.
    `errors` maps 0.5, 0.9 and 0.95 to that quantile of the error |A B - I| (Frobenius norm), with
    A the site's true warp from its positions to the reference's. `numbers` maps the names on the
    card to all the numbers, as the model gave them. `sizes` is the range of the warp's singular
    values that the model was trained on; None where the card does not say.
    """

    warp: NDArray[np.float32]
    shift: NDArray[np.float32]
    perspective: NDArray[np.float32] | None
    light: NDArray[np.float32] | None
    levels: NDArray[np.float32]
    knots: NDArray[np.float32]
    errors: dict[float, float]
    numbers: dict[str, float]
    sizes: tuple[float, float] | None = None

    @classmethod
    def of(cls, card: ModelCard, numbers: ArrayLike) -> Site:
        """Read the output `site`, [P], by the names on the card.

        Raises NoSite for a model that infers no site, BadBundle for names or a number of numbers
        that are none of a site's.
        """
        found = _named(card, numbers)
        levels = [name for name in found if name.startswith("intensity_")]
        try:
            return cls(
                warp=_array([found[f"warp_{one}"] for one in ("xx", "xy", "yx", "yy")], (2, 2)),
                shift=_array([found["shift_x"], found["shift_y"]]),
                perspective=_pair(found, "perspective"),
                light=_pair(found, "light"),
                levels=_array([float(name.removeprefix("intensity_")) for name in levels]),
                knots=_array([found[name] for name in levels]),
                errors={share: found[f"error_{share * 100:.0f}"] for share in (0.5, 0.9, 0.95)},
                numbers=found,
                sizes=_sizes(card),
            )
        except (LookupError, ValueError) as error:
            raise BadBundle(
                f"the card of {card.name} lists a site that cannot be read"
                f" ({type(error).__name__}: {error})",
                hint="Upgrade metavae (`git pull` in its clone), or export the model again",
            ) from error

    @property
    def sure_to(self) -> float:
        """The rotation, in degrees, whose error is the 90% quantile; 180 where that is larger."""
        return math.degrees(2 * math.asin(min(1.0, self.errors[0.9] / (2 * math.sqrt(2)))))

    @property
    def is_impossible(self) -> bool:
        """Whether the warp is none that the model was trained on: it enlarges or shrinks too much.

        Half of such warps are wrong, whatever the error's quantiles say.
        """
        if self.sizes is None:
            return False
        found = np.linalg.svd(self.warp.astype(np.float64), compute_uv=False)
        least, most = self.sizes
        return bool(found[-1] * _MARGIN < least or found[0] > most * _MARGIN)

    @property
    def is_dark_on_light(self) -> bool:
        """Whether no grey level stands for the reference's brightest: the polarity is another."""
        return len(self.knots) > 0 and bool(self.knots.max() < _LIGHT_INK)

    @property
    def is_sure(self) -> bool:
        """Whether the site can be relied on."""
        return self.errors[0.9] <= UNSURE and not self.is_impossible and not self.is_dark_on_light


def _sizes(card: ModelCard) -> tuple[float, float] | None:
    """The singular values of B in the prior, which has the logarithms of those of A."""
    match card.prior.get("log_singular"):
        case [int() | float() as low, int() | float() as high]:
            return math.exp(-high), math.exp(-low)
    return None


def _named(card: ModelCard, numbers: ArrayLike) -> dict[str, float]:
    check_site(card)
    array = np.asarray(numbers, np.float32)
    if array.shape != (len(card.site),):
        raise BadBundle(
            f"a site of {card.name} has shape {list(array.shape)}, expected {len(card.site)}"
            " numbers",
            hint="Give the output `site` of one context, as the model gave it",
        )
    return {
        parameter.name: float(number) for parameter, number in zip(card.site, array, strict=True)
    }


def describe(site: Site) -> str:
    """How the site differs from the reference, in words, and how sure that is.

    Such as "rotated by 43 degrees counter-clockwise, 1.2 times larger, contrast .4, sure to 3
    degrees". What is as in the reference is left out. "Not sure:" comes first where the site
    cannot be relied on. A mirrored site is described as mirrored left to right first. The direction
    of a stretch is that of the site's longer axis, counter-clockwise from the right. Contrast is
    the share of the grey levels that dark to bright takes; gamma and blur lower it.
    """
    parts = [*_geometry(site), *_photometry(site)] or ["as the reference"]
    if not site.is_sure:
        return f"not sure: {', '.join(parts)}"
    return ", ".join([*parts, f"sure to {_number(site.sure_to)} degrees"])


def doubts(site: Site, count: int) -> list[str]:
    """Warnings about the site of a context of `count` images, a sentence each; mostly none."""
    expected = (
        f"expect an error of the warp of {site.errors[0.5]:.2g}, and in one case of ten above"
        f" {site.errors[0.9]:.2g} ({_number(site.sure_to)} degrees)"
    )
    if site.is_dark_on_light:
        return [
            "the site is not sure: no grey level of the context is as bright as the reference's"
            " ink; where the images are dark on light, and the model's are not, invert all of them"
            " (--invert; in Python 255 - images)"
        ]
    if count < FEW:
        images = "1 image" if count == 1 else f"{count} images"
        return [
            f"a context of {images} says little of its site: {expected}; give 10 images, better 20"
        ]
    if site.is_impossible:
        least, most = site.sizes or (0, 0)
        return [
            "the site is not sure: the warp that was found enlarges or shrinks more than any that"
            f" the model was trained on ({least:.2g} to {most:.2g} times); give more images"
        ]
    if not site.is_sure:
        return [
            f"the site is not sure: {expected}; the context may be too small, blank, of one kind"
            " only, or of another kind than the model's"
        ]
    return []


def _geometry(site: Site) -> list[str]:
    warp = site.warp.astype(np.float64)
    parts = []
    if mirrored := np.linalg.det(warp) < 0:
        parts.append("mirrored left to right")
    # The polar decomposition, warp = rotation * stretch, after the mirroring.
    left, sizes, right = np.linalg.svd(warp @ _MIRROR if mirrored else warp)
    rotation = left @ right
    angle = math.degrees(math.atan2(-rotation[1, 0], rotation[0, 0]))  # y points down
    if abs(angle) >= _ANGLE:
        direction = "counter-clockwise" if angle > 0 else "clockwise"
        parts.append(f"rotated by {abs(angle):.0f} degrees {direction}")
    size = math.sqrt(sizes[0] * sizes[1])
    if size == 0:
        return [*parts, "shrunk to a line"]
    if max(size, 1 / size) >= _SIZE:
        parts.append(f"{size:.2g} times larger" if size > 1 else f"{1 / size:.2g} times smaller")
    if (stretch := sizes[0] / sizes[1]) >= _STRETCH:
        along = math.degrees(math.atan2(-left[1, 0], left[0, 0])) % 180
        parts.append(f"stretched {stretch:.2g} times along {round(along) % 180} degrees")
    if (moved := float(np.hypot(*site.shift))) >= _SHIFT:
        parts.append(f"moved by {moved:.1f} pixels")
    if site.perspective is not None and np.hypot(*site.perspective) >= _TILT:
        parts.append("seen at a slant")
    return parts


def _photometry(site: Site) -> list[str]:
    parts = []
    if site.light is not None and (change := float(np.hypot(*site.light))) >= _TILT:
        parts.append(f"light that changes by {change * 100:.0f} % from centre to edge")
    if len(site.knots) > 1:
        if site.knots[-1] < site.knots[0]:
            parts.append("dark and bright exchanged")
        if (contrast := _contrast(site)) < _CONTRAST:
            parts.append(f"contrast {_number(contrast)}")
    return parts


def _contrast(site: Site) -> float:
    """The share of the site's grey levels that dark to bright takes; 1 for the reference's own.

    Dark and bright are 0.05 and 0.95 of the reference's brightness, so 0.9 of the levels is all.
    """
    order = np.argsort(site.knots, kind="stable")
    dark, bright = np.interp([_DARK, _BRIGHT], site.knots[order], site.levels[order])
    return abs(float(bright - dark)) / (255 * (_BRIGHT - _DARK))


def _number(value: float) -> str:
    """Short, such as 3, 0.4 as .4, or 23."""
    if value >= 1:
        return f"{value:.0f}"
    return f"{value:.2f}".rstrip("0").rstrip(".").removeprefix("0") or "0"


def _array(numbers: list[float], shape: tuple[int, ...] = (-1,)) -> NDArray[np.float32]:
    return np.array(numbers, np.float32).reshape(shape)


def _pair(found: dict[str, float], name: str) -> NDArray[np.float32] | None:
    if f"{name}_x" not in found:
        return None
    return _array([found[f"{name}_x"], found[f"{name}_y"]])
