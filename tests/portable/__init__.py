"""What works on macOS and the BSDs, tried on Linux."""
