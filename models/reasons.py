"""Why code that is not ours failed, in so few words that they fit into a sentence."""

from __future__ import annotations


def reason(error: BaseException) -> str:
    """The kind of an error and the first line of its message: what follows is advice, or where it happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:1]])


def innermost(error: BaseException) -> BaseException:
    """The error that began it all; torch's compiler keeps the one it wraps as ``inner_exception``."""
    inner = getattr(error, "inner_exception", None) or error.__cause__
    return innermost(inner) if isinstance(inner, BaseException) else error
