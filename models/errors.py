"""The one root of everything a user can cause."""

from __future__ import annotations


class TinysplitError(Exception):
    """Something the user can mend. Its text is one plain line: what is wrong and what to do."""


class ArgumentError(TinysplitError):
    """What stands on the command line names nothing or contradicts itself: exit code 2, not 1."""
