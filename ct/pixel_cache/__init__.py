"""The pixel cache: every slice as a small square of HU, compressed in shards."""
