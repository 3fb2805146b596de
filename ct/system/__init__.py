"""The machine: worker processes, a child process that may crash, Ctrl-C, the machine's faults."""
