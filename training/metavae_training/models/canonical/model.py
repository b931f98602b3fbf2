"""What models share that embed in the canonical frame: the canonicaliser and its settings."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from metavae_training.models.base import BadModelSetting, Batch, Model, Start
from metavae_training.models.canonical.inversion import SET_SIZE
from metavae_training.models.canonical.kept import LEAST_IMAGES, Schedule, learn_canonicaliser
from metavae_training.models.canonical.network import Canonicaliser, Intensity
from metavae_training.models.canonical.prior import draw_sites
from metavae_training.models.canonical.simulation import simulate
from metavae_training.models.sizes import draw_sizes

_CHUNK = 500  # images that share a context
_CONTEXT = (5, 50)  # images of such a context


class CanonicalModel(Model, ABC):
    """A model with a canonicaliser, see `metavae_training.models.canonical`.

    Its features are the canonicaliser's, then those of the model's own. `prior`, `intensity`:
    see `Canonicaliser`; `sets`, `steps`, `calibration_sets`: see `Schedule`; `reference`: the value
    of the training site that sites are simulated from, None for the one that changes images least.
    """

    def __init__(
        self,
        *,
        pixels: int,
        prior: str,
        intensity: Intensity,
        sets: int,
        steps: int,
        calibration_sets: int,
        reference: float | None,
    ) -> None:
        super().__init__()
        self.schedule = Schedule(sets, steps, calibration_sets)
        self.canonicaliser = Canonicaliser(pixels=pixels, prior=prior, intensity=intensity)
        self.canonicaliser.requires_grad_(False)

    @property
    def site_parameters(self) -> list[tuple[str, str]]:
        """See `Model`."""
        return self.canonicaliser.site_parameters

    def site(self, pooled: Tensor, count: Tensor) -> Tensor:
        """See `Model`."""
        return self.canonicaliser.site_row(pooled, count)

    @contextmanager
    def on_cpu(self) -> Iterator[None]:
        """Within, the model is on the CPU, where sites are simulated; then where it was."""
        device = next(self.parameters()).device
        self.cpu()
        try:
            yield
        finally:
            self.to(device)

    def learn_canonicaliser(self, images: Tensor, start: Start) -> None:
        """Learn to invert simulated sites of the reference, uint8 [distribution, image, pixel].

        Then `auto` intensity is chosen on the training sites. Images and model are on the CPU.
        """
        reference = images[start.reference]
        if len(reference) < LEAST_IMAGES:
            raise BadModelSetting(
                f"the reference site has {len(reference)} training images, expected"
                f" {LEAST_IMAGES} or more",
                hint="Choose another reference (`--set reference=VALUE`), or give it more images",
                field="reference",
            )
        with torch.enable_grad():
            self.canonicaliser.requires_grad_(True)
            learn_canonicaliser(self.canonicaliser, reference, self.schedule, start.seed)
            self.canonicaliser.requires_grad_(False)
        if self.canonicaliser.intensity == "auto" and len(images) > 1:
            generator = torch.Generator().manual_seed(start.seed)
            contexts = (site[_draw(len(site), generator)].float() / 255 for site in images)
            pooled = [self.canonicaliser.features(context).mean(0) for context in contexts]
            self.canonicaliser.choose_table(torch.stack(pooled))

    def canonical(self, x: Tensor, pooled: Tensor) -> Tensor:
        """Images in the canonical frame, in float32 whatever autocast says.

        x: [..., pixel] of 0-1; pooled: [..., feature], broadcast against it or of as many rows.
        """
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            if x.dim() == 2:
                return self.canonicaliser.canonical(x, pooled)
            rows = pooled.expand(*x.shape[:-1], -1).flatten(0, -2)
            return self.canonicaliser.canonical(x.flatten(0, -2), rows).view(x.shape)

    def pooled(self, batch: Batch) -> Tensor:
        """Mean features of each context, [distribution, set, 1, feature]."""
        return self.features(batch.contexts).mean(dim=-2, keepdim=True)

    def site_features(self, x: Tensor) -> Tensor:
        """The canonicaliser's features, in float32 whatever autocast says."""
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            found = self.canonicaliser.features(x.reshape(-1, x.shape[-1]))
            return found.view(*x.shape[:-1], self.canonicaliser.feature_dim)

    @torch.no_grad()
    def canonical_chunks(
        self, images: Tensor, most: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Canonical images [image, pixel] of the training sites, under contexts of many sizes.

        images: uint8 [distribution, image, pixel]; at most `most` images, evenly over the sites.
        """
        count = max(1, min(images.shape[1], most // len(images)))
        for site in images:
            for chunk in site[:count].split(_CHUNK):
                context = site[_draw(len(site), generator)].float() / 255
                yield self._canonical_under(chunk.float() / 255, context)

    @torch.no_grad()
    def simulated_chunks(
        self, reference: Tensor, sites: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """The same of simulated sites, _CHUNK images each; reference: uint8 [image, pixel]."""
        side = self.canonicaliser.side
        for _ in range(sites):
            site = draw_sites(self.canonicaliser.prior, 1, generator)
            rows = torch.randint(len(reference), (_CHUNK + SET_SIZE,), generator=generator)
            images = (reference[rows].float() / 255).view(1, -1, side, side)
            shown = simulate(images, site, generator).flatten(2)[0]
            context = shown[_CHUNK:][_draw(SET_SIZE, generator)]
            yield self._canonical_under(shown[:_CHUNK], context)

    def _canonical_under(self, x: Tensor, context: Tensor) -> Tensor:
        pooled = self.canonicaliser.features(context).mean(0, keepdim=True)
        return self.canonicaliser.canonical(x, pooled)


def _draw(available: int, generator: torch.Generator) -> Tensor:
    """Rows of a context, of a size that is drawn too."""
    [size] = draw_sizes(_CONTEXT, 1, generator)
    return torch.randint(available, (min(size, available),), generator=generator)
