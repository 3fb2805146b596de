"""Label tables of the user's own and of public data: columns, keys, match with the slices."""
