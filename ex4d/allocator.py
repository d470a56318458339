"""How the C library keeps memory: for programs that move many large messages."""

import ctypes
import platform

# Parameters of glibc's mallopt, from its malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
#: As much as a session's window in each direction may have under way, twice.
_KEPT_BYTES = 64 << 20
#: Messages below this come from the heap; every chunk of a blob is.
_LARGE_BYTES = 32 << 20
_GROWTH_BYTES = 16 << 20


def keep_freed_memory() -> None:
    """Have this process keep freed memory up to 64 MiB a heap instead of giving it back at once.

    libzmq asks for memory for each message and frees it again. glibc returns such blocks to the
    system, which then clears the same pages anew for the next message: a fifth of the processor's
    time of a transfer. Nothing happens where the C library is another.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_TOP_PAD, _GROWTH_BYTES)
