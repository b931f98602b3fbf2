"""The canonicaliser: infer a site from a context set, and take it out of the site's images.

**Idea.** A context says little about one image that the image does not say itself. It says much
about the *site* that all images share: how it is turned, sized and mirrored, how thick ink is, what
black means. So the site's parameters are the latent variable that is inferred from the context set
D by an amortised network, as in compiled inference (Le, Baydin and Wood, AISTATS 2017): simulate
sites, learn to invert them. The embedding is then a function of the image *with the site taken
out*:

    g(D, x) = code(c(x; f(mean over D of h(x_i))))                                   (after Eq. 12)

h: per-image features, f: the inferred site, c: the canonical image,

    c(x; B, s, T)(q) = T(x(B q + s)),

read at position B q + s (pixels from the centre) through the intensity table T. A summary stays a
sum of per-image features, as of every other model here.

**Literature.** Canonicalisation of images: congealing (Learned-Miller, PAMI 2006), spatial
transformers (Jaderberg et al., NeurIPS 2015). Features pooled over a set: the Neural Statistician
(Edwards and Storkey, ICLR 2017), deep sets (Zaheer et al., NeurIPS 2017). Intensity: histogram
specification (Gonzalez and Woods), as used between scanners (Nyul and Udupa, 1999). Error quantiles
by the pinball loss (Koenker and Bassett, 1978), with sets of other kinds beside the simulated ones
(outlier exposure, Hendrycks et al., ICLR 2019).

`prior.py` draws sites, `simulation.py` renders them, `network.py` is the canonicaliser,
`intensity.py` its table, `inversion.py` learns to invert sites, `calibration.py` how sure it is,
`kept.py` keeps what was learned.
"""

from metavae_training.models.canonical.network import Canonicaliser, Site

__all__ = ["Canonicaliser", "Site"]
