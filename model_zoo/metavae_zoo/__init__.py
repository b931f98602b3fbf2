"""What a metavae model is, which exist, and what they were trained over.

The zoo stands under the other three packages and imports none of them: cards and bundles
(`card`, `bundle`), the embedding contract (`embedder`), the families of distributions
(`families`) and the index of known models (`index`).
"""

__version__ = "0.1.0"
