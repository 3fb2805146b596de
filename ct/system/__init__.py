"""Processes, interrupts and faults of the machine."""
