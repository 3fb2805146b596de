"""The command line: its verbs and flags, help, error messages, commands as they are printed."""
