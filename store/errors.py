"""What can be wrong with a trace, each said in one line that names the file and what to do."""

from __future__ import annotations


class TraceError(Exception):
    """A trace could not be opened, written or asked; the message is one line for the user."""
