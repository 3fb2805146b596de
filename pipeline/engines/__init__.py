"""Engines, which run units: on this machine, as one of several shards, or on a cluster."""
