"""Word lists as they read best: a line of words, or of phrases with bars between."""


def words(text: str) -> list[str]:
    """Split at the bars, or at white space where there are none.

    >>> words("boat letter"), words("by the sea|on the hill")
    (['boat', 'letter'], ['by the sea', 'on the hill'])
    """
    return text.split("|" if "|" in text else None)
