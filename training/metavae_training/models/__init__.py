"""The models: one file each, one base for all, so that one loop trains them."""

from metavae_training.models.base import Batch, Model
from metavae_training.models.metavae import MetaVAE
from metavae_training.models.neural_statistician import NeuralStatistician
from metavae_training.models.vae import VAE
from metavae_training.models.vampprior import VampPriorVHE
from metavae_training.models.vhe import VariationalHomoencoder
from metavae_training.models.wavelet_metavae import WaveletMetaVAE
from metavae_training.models.wavelet_pca import WaveletPCA

MODELS: dict[str, type[Model]] = {
    "metavae": MetaVAE,
    "vae": VAE,
    "vae-single": VAE,  # what it is trained on, its recipe says
    "neural-statistician": NeuralStatistician,
    "vhe": VariationalHomoencoder,
    "vhe-vampprior": VampPriorVHE,
    "wavelet-pca": WaveletPCA,
    "wavelet-metavae": WaveletMetaVAE,
}

__all__ = [
    "MODELS",
    "VAE",
    "Batch",
    "MetaVAE",
    "Model",
    "NeuralStatistician",
    "VampPriorVHE",
    "VariationalHomoencoder",
    "WaveletMetaVAE",
    "WaveletPCA",
]
