"""Errors of a source of files."""


class Unreadable(Exception):
    """A file that cannot be used: one short line with the reason, without paths and without values
    of identifying tags.
    """


class NotARegularFile(Unreadable):
    """What stands among the files and holds no bytes: a pipe, a socket, a device, a link to
    itself.
    """
