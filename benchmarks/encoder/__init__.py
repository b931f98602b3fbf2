"""What the changes that led to wavelet-metavae gave, judged without held-out values."""
