"""Benchmarks of the CNNs: backbones, pretrained weights."""
