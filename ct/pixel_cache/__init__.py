"""The pixel cache: every slice as a small square of HU, compressed.

reader.py reads it, writer.py writes it; shards.py describes its files.
"""
