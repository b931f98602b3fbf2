"""Models on wavelet features, fitted in closed form."""
