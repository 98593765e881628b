"""A full disk, which interrupts a search and fails no trial."""

import errno


def is_full_disk(error: BaseException) -> bool:
    """Returns whether an error says that a disk has no room."""
    # HDF5 and TensorFlow give the system's words, but not its number.
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)
