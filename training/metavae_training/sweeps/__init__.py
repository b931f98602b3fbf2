"""Many training runs at once."""
