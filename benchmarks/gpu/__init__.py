"""What `make gpu` runs: checks and speed of stage one on a GPU."""
