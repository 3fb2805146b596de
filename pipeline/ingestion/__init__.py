"""The units of ingest: list the files, read headers, select slices, write shards of pixels."""
