"""Every error tileloom raises, in the user's words.

Each class takes one message, so that it survives pickling between processes,
and inherits the builtin that a caller would expect to catch.
"""


class TileloomError(Exception):
    """Anything that went wrong while a job ran; the command line exits with 1."""

    exit_code = 1


class InputError(TileloomError, ValueError):
    """The user asked for something impossible; one sentence names it and the mend. Exit code 2."""

    exit_code = 2


class JobChanged(InputError):
    """The job is not the one that began this output; the message names what changed."""


class CorruptChunk(TileloomError, OSError):
    """A stored chunk is missing, truncated or damaged; the message names array and chunk."""


class StoreError(TileloomError, OSError):
    """A store cannot be written or reached."""


class StoreAway(StoreError):
    """A store that was waited for in vain: nothing is wrong with what was asked of it."""


class NotOwned(TileloomError, ValueError):
    """A write that its writer does not own or that is not aligned to chunks."""


class LedgerTaken(TileloomError, RuntimeError):
    """Another driver writes this ledger; this one must stop."""


class TileFailed(TileloomError, RuntimeError):
    """A tile could not be computed; the message names tile and pixel box."""


class OutOfMemory(TileloomError, MemoryError):
    """Batches of this shape do not fit; the message says what to lower."""


# Torch's own error is known by its name, as this layer does not load torch; on a processor it is a mere RuntimeError.
_NO_MEMORY = ("DefaultCPUAllocator", "std::bad_alloc")


def lacks_memory(error: BaseException) -> bool:
    """Whether an error, of whichever library, says that there is no memory left."""
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    return isinstance(error, MemoryError) or named or told
