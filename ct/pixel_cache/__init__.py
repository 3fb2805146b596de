"""The pixel cache: every slice as a small square of HU, compressed.

writer          decodes, measures, resamples and compresses the slices
reader          slices -> HU
shards          the files of a cache
resampling      a slice -> a square of the cache's size
slice_measures  areas of brain and skull, HU of the brain
"""
