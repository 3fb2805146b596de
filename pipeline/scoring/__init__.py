"""What `score` needs: the model of a run or of a packed folder, and studies of other sources."""
