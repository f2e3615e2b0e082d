"""Errors meant for people: each message is one line that says what is wrong, where, and what to do."""

from __future__ import annotations

from ssa_analysis.texts import one_line


class SSAError(Exception):
    """Base of every error a user can cause. The CLI prints its message without a traceback.

    The message is one line whatever names it holds: what would command a terminal is spelt out.
    ``is_usage`` marks what a different command line would have avoided (exit code 2); the rest end with 1.
    """

    is_usage = False

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


class CheckpointError(SSAError):
    """A checkpoint file that cannot be read, is refused, or does not fit its architecture."""


class DataError(SSAError):
    """A data set that is absent, malformed or too small for what was asked of it."""


class UnknownDataError(DataError):
    """A data set that there is not: neither a known name nor a path."""

    is_usage = True


class SettingsError(SSAError):
    """A setting that is unknown or out of range."""

    is_usage = True


class MeasureError(SSAError):
    """A measure that cannot say anything about this checkpoint on this data."""


class StoreError(SSAError):
    """A score store that cannot be opened, read or written."""


class OutputError(SSAError):
    """A folder or file that cannot be written."""
