"""The machine: worker processes, a child process that may crash, Ctrl-C, faults of the machine."""
