"""Log lines of libraries that tell a user of our commands nothing, kept off stderr; by logger and by words.

Only these lines: whatever else these loggers say is shown as before. For our own programs; a library that imports
`probes` keeps its logging as it is.
"""

from __future__ import annotations

import logging

# logger -> what its line must hold. transformers imports torchao wherever it is installed, used or not.
HUSHED: dict[str, tuple[str, ...]] = {
    # torchao 0.18: one line per compiled kernel that does not fit this Python or this GPU
    "torchao": ("Failed to load", ".so"),
    # torch 2.13: torchao registers its enums in a way that torch no longer needs
    "torch.utils._pytree": ("register_constant() on Enum subclasses",),
}


class _Hush(logging.Filter):
    """Lets everything pass but lines that hold all of these words."""

    def __init__(self, words: tuple[str, ...]) -> None:
        super().__init__()
        self._words = words

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return not all(word in text for word in self._words)


def hush() -> None:
    """Keep the lines of `HUSHED` off stderr in this process; calling it again changes nothing."""
    for name, words in HUSHED.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Hush) for known in logger.filters):
            logger.addFilter(_Hush(words))
