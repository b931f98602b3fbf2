"""Drawn sites: scanners and cameras that each show the same digits in a way of their own.

A site is a warp, a photometry and an optics, drawn once from a fixed seed. Three kinds of site,
40 of each, differ in what is drawn; site n has the same warp, shift and photometry in all kinds.

    affine    warp and shift
    scanner   the same, and gamma, contrast, background, noise
    camera    the same, and perspective, light, blur

Site 0 shows the images as they are: it is the reference. Sites 0 to 19 are the training sites of
the split `contiguous`, sites 20 to 39 are held out. Sites 1 to 35 are drawn from this prior, where
U is a uniform distribution:

    warp         log of the geometric mean of the singular values U(-.75, .85); half the log of
                 their ratio U(0, .06) in 40% of the draws, else U(0, .85); both singular values
                 between exp(-.85) and exp(1.35); a random rotation on either side; reflected in
                 half of the draws
    shift        x and y U(-2, 2) pixels
    gamma        exp(U(-1, .9))
    contrast     U(.3, 1)
    background   U(0, .5)
    noise        U(0, .04) in half of the draws, else 0; standard deviation, brightness 0-1
    light        U(0, .5) in a random direction
    blur         U(0, 1.2) pixels, standard deviation
    perspective  x and y U(-.3, .3)

A warp or a perspective that moves more than 8% of the reference's central disc (radius 8 pixels,
which holds nearly all ink) out of the frame is drawn again. So are a photometry or optics that
show a ring (radius 6, line width 3 pixels) less than .12 above the background, or less than 6
standard deviations of the noise: mean over the 30 pixels that show it best.

Sites 36 to 39, which are held out, each lie outside this prior in one respect (`Site.outside`):

    36   a shift of 3 pixels
    37   half the log of the singular values' ratio is .95
    38   affine: log of the geometric mean .95 (smaller digits); others: gamma exp(1.1)
    39   affine: a shear of 2, half the log of the ratio .88; others: noise of .07

`site` renders them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from metavae_zoo.errors import UnknownName
from metavae_zoo.families.axes import Axis
from metavae_zoo.families.parts import Part
from metavae_zoo.families.site import RENDER_VERSION, Site, render
from metavae_zoo.families.warp import Affine, centred_positions

Kind = Literal["affine", "scanner", "camera"]

SITES = 40
TRAINED = 20  # the first ones have labels

_SEED = 20200207
_DECIMALS = 6  # of a drawn parameter, so that all machines have the same bits
_WARP, _PHOTOMETRY, _OPTICS, _NOISE = range(4)  # random streams of a site

_SMALLEST, _LARGEST = math.exp(-0.85), math.exp(1.35)  # singular values
_SIDE, _DISC, _SHOWN = 28, 8.0, 0.92  # pixels, pixels, share


@dataclass(frozen=True)
class SiteAxis(Axis):
    """An axis whose value n is the n-th of `sites`, which `draw` draws at first use."""

    draw: Callable[[], tuple[Site, ...]]

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites in order; site 0 is the reference."""
        return self.draw()

    def least_changing(self, values: Sequence[float]) -> float:
        """The value among these whose site changes an image least; 0 changes nothing."""
        return 0.0 if 0.0 in values else super().least_changing(values)

    def change(self, value: float) -> float:
        """How much the site changes an image: 0 only for the identity."""
        return site_at(self.sites, value).change

    def render(
        self, images: NDArray[np.uint8], value: float, part: Part, side: int
    ) -> NDArray[np.uint8]:
        """Images [N, side, side] as the site shows them, the same bits on every call.

        images: all images [N, H, W] of the part, untransformed. The noise of an image follows
        from the site, the part and the image's place in the part.
        """
        return render(images, site_at(self.sites, value), _noise_seed(value, part), side)

    def fingerprint(self, value: float, part: Part) -> tuple[object, ...]:
        """Everything but images and side that `render` depends on."""
        site = site_at(self.sites, value)
        parameters = {k: v for k, v in dataclasses.asdict(site).items() if k != "outside"}
        seed = _noise_seed(value, part) if site.noise else ()
        return ("site", RENDER_VERSION, sorted(parameters.items()), seed)

    def site(self, value: float) -> dict[str, Any]:
        """Parameters of the site by name, as JSON; `Site` says what each means."""
        parameters = dataclasses.asdict(site_at(self.sites, value))
        parameters["warp"] = [list(row) for row in parameters["warp"]]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in parameters.items()}


def site_at(sites: Sequence[Site], value: float) -> Site:
    """The site of this number, or UnknownName."""
    if value not in range(len(sites)):
        known = [str(number) for number in range(len(sites))]
        raise UnknownName("site", f"{value:g}", known, f"the sites are 0 to {len(sites) - 1}")
    return sites[int(value)]


def site_axis(
    count: int, draw: Callable[[], tuple[Site, ...]], splits: dict[str, tuple[int, ...]]
) -> SiteAxis:
    """The axis `site` over `count` drawn sites: values 0.0, 1.0, ..."""
    return SiteAxis(
        name="site",
        unit="number",
        values=tuple(float(number) for number in range(count)),
        matrix=partial(_matrix, draw),
        interpolation="bilinear",
        splits=splits,
        draw=draw,
    )


def _matrix(draw: Callable[[], tuple[Site, ...]], value: float) -> Affine:
    return site_at(draw(), value).matrix


# --- Drawing sites


@cache
def draw_sites(kind: Kind) -> tuple[Site, ...]:
    """The 40 sites of a kind; the same on every call."""
    return (Site(), *(draw_site(kind, number) for number in range(1, SITES)))


def draw_site(kind: Kind, number: int) -> Site:
    """Draw the site of this number, from 1 on; numbers from SITES on are of no family."""
    site = _with_warp(kind, number)
    if kind != "affine":
        site = _with_photometry(site, number)
    if kind == "camera":
        site = _with_optics(site, number)
    return site


def _with_warp(kind: Kind, number: int) -> Site:
    rng, affine = _stream(number, _WARP), kind == "affine"
    while True:
        warp, outside = _draw_warp(rng), ""
        shift = rng.uniform(-2, 2, 2)
        if number == 36:
            shift, outside = 3 * _direction(rng), "shift of 3 pixels"
        elif number == 37:
            warp = _warp_of(rng, rng.uniform(0.2, 0.4), 0.95)
            outside = "half log-ratio of the singular values .95"
        elif number == 38 and affine:
            warp = _warp_of(rng, 0.95, rng.uniform(0, 0.06))
            outside = "log of the geometric mean of the singular values .95"
        elif number == 39 and affine:
            warp, outside = math.exp(0.4) * np.array([[1, 2], [0, 1]]), "shear of 2"
        site = Site(warp=_rounded(warp), shift=_rounded(shift), outside=outside)
        if _share_shown(site) >= _SHOWN:
            return site


def _draw_warp(rng: np.random.Generator) -> NDArray[np.float64]:
    while True:
        log_size = rng.uniform(-0.75, 0.85)
        half_log_ratio = rng.uniform(0, 0.06 if rng.random() < 0.4 else 0.85)
        smaller, larger = np.exp([log_size - half_log_ratio, log_size + half_log_ratio])
        if smaller >= _SMALLEST and larger <= _LARGEST:
            return _warp_of(rng, log_size, half_log_ratio)


def _warp_of(
    rng: np.random.Generator, log_size: float, half_log_ratio: float
) -> NDArray[np.float64]:
    """A warp of given singular values between two random rotations, reflected in half."""
    larger, smaller = np.exp([log_size + half_log_ratio, log_size - half_log_ratio])
    reflection = -1 if rng.random() < 0.5 else 1
    return _rotation(rng) @ np.diag([larger, reflection * smaller]) @ _rotation(rng)


def _rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    cosine, sine = _direction(rng)
    return np.array([[cosine, -sine], [sine, cosine]])


def _direction(rng: np.random.Generator) -> NDArray[np.float64]:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def _with_photometry(site: Site, number: int) -> Site:
    rng, outside = _stream(number, _PHOTOMETRY), site.outside
    while True:
        gamma = np.exp(rng.uniform(-1, 0.9))
        contrast, background = rng.uniform(0.3, 1), rng.uniform(0, 0.5)
        noise = rng.uniform(0, 0.04) if rng.random() < 0.5 else 0.0
        if number == 38:
            gamma, outside = np.exp(1.1), "gamma of exp(1.1)"
        elif number == 39:
            noise, outside = 0.07, "noise of .07"
        site = dataclasses.replace(
            site,
            gamma=_rounded(gamma),
            contrast=_rounded(contrast),
            background=_rounded(background),
            noise=_rounded(noise),
            outside=outside,
        )
        if _legible(site):
            return site


def _with_optics(site: Site, number: int) -> Site:
    rng = _stream(number, _OPTICS)
    while True:
        site = dataclasses.replace(
            site,
            light=_rounded(rng.uniform(0, 0.5) * _direction(rng)),
            blur=_rounded(rng.uniform(0, 1.2)),
            perspective=_rounded(rng.uniform(-0.3, 0.3, 2)),
        )
        if _share_shown(site) >= _SHOWN and _legible(site):
            return site


def _share_shown(site: Site) -> float:
    """Share of the reference's central disc that the site's frame shows."""
    grid = centred_positions(_SIDE)
    disc = grid[:, np.hypot(*grid) <= _DISC]
    warped = np.linalg.solve(np.array(site.warp), disc) + np.array(site.shift)[:, None]
    read = warped / (_SIDE / 2)
    # p / (1 + h·p) = read is solved by p = read / (1 - h·read); behind the camera from 0 on.
    depth = 1 - np.array(site.perspective) @ read
    return float(((depth > 0) & (np.abs(read).max(0) <= depth)).mean())


def _legible(site: Site) -> bool:
    """Whether a ring stands out from the background and from the noise."""
    distance = np.abs(np.hypot(*centred_positions(_SIDE)) - 6)
    ring = np.stack([(2 - distance).clip(0, 1), np.zeros_like(distance)]) * 255
    images = ring.reshape(-1, _SIDE, _SIDE).astype(np.uint8)
    shown, blank = render(images, dataclasses.replace(site, noise=0.0), (0,), _SIDE) / 255
    contrast = np.sort(shown - blank, axis=None)[-30:].mean()
    return bool(contrast >= max(0.12, 6 * site.noise))


def _stream(number: int, stream: int) -> np.random.Generator:
    return np.random.default_rng((_SEED, number, stream))


def _rounded(parameter: Any) -> Any:
    """A number or an array, rounded, as a float or as tuples of floats."""
    if np.ndim(parameter):
        return tuple(_rounded(item) for item in parameter)
    return round(float(parameter), _DECIMALS)


def _as_it_is() -> tuple[Site, ...]:
    return (Site(),)


def _noise_seed(value: float, part: Part) -> tuple[int, ...]:
    return (_SEED, int(value), _NOISE, ("train", "test").index(part))


_SPLITS = {"contiguous": tuple(range(TRAINED))}

AFFINE = site_axis(SITES, partial(draw_sites, "affine"), _SPLITS)
SCANNER = site_axis(SITES, partial(draw_sites, "scanner"), _SPLITS)
CAMERA = site_axis(SITES, partial(draw_sites, "camera"), _SPLITS)
PLAIN = site_axis(1, _as_it_is, {"all": (0,)})
