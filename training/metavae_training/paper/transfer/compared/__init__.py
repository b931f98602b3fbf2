"""What transfer is compared with: baselines, networks, oracles."""
