"""The pixel cache: every slice as a small square of HU, compressed.

writer          decodes, measures, resamples and compresses the slices
reader          slices -> HU
shards          the files of a cache
resampling      a slice -> a square of the cache's size
slab_plan       which thin slices make a slab of the training spacing
slab_pixels     the mean of a slab's slices
slice_measures  areas of brain and skull, HU of the brain
"""
