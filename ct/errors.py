"""The one exception that a user is meant to read."""


class InputError(Exception):
    """Something the user gave is wrong: one line that says what, which value, and what to do about it.

    `run.py` prints it and exits with 1. Anything else that is raised is a defect of the program and shows its traceback.
    """
