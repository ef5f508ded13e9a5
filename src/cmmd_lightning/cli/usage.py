"""Errors of the command line."""


class UsageError(ValueError):
    """The command line asks for something that is not there."""
