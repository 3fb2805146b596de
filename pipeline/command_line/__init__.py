"""The command line: check of flags, help, completion, error messages, printed commands."""
