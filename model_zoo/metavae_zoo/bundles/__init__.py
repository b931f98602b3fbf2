"""Models on disk: cards, bundles, and where they are found."""
