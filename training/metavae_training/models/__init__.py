"""The models: one file each, one base for all, so that one loop trains them."""

from metavae_training.models.base import Batch, Model, Start
from metavae_training.models.canonical.metavae import CanonicalMetaVAE
from metavae_training.models.canonical.wavelet import CanonicalWavelet
from metavae_training.models.metavae import MetaVAE
from metavae_training.models.neural_statistician import NeuralStatistician
from metavae_training.models.vae import VAE
from metavae_training.models.vampprior import VampPriorVHE
from metavae_training.models.vhe import VariationalHomoencoder
from metavae_training.models.wavelet.metavae import WaveletMetaVAE
from metavae_training.models.wavelet.pca import WaveletPCA

MODELS: dict[str, type[Model]] = {
    "metavae": MetaVAE,
    "vae": VAE,
    "vae-single": VAE,  # what it is trained on, its recipe says
    "neural-statistician": NeuralStatistician,
    "vhe": VariationalHomoencoder,
    "vhe-vampprior": VampPriorVHE,
    "wavelet-pca": WaveletPCA,
    "wavelet-metavae": WaveletMetaVAE,
    "canonical-wavelet": CanonicalWavelet,
    "canonical-metavae": CanonicalMetaVAE,
}

__all__ = [
    "MODELS",
    "VAE",
    "Batch",
    "CanonicalMetaVAE",
    "CanonicalWavelet",
    "MetaVAE",
    "Model",
    "NeuralStatistician",
    "Start",
    "VampPriorVHE",
    "VariationalHomoencoder",
    "WaveletMetaVAE",
    "WaveletPCA",
]
