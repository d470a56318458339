"""The errors that people read: each has a stable code and says what to do.

A message says what was expected, what was found and what to do next. The code never changes once
released: programs, documentation and the add-on may rely on it.

This module imports nothing, since it also travels inside the Blender extension.
"""


class Ex4dError(Exception):
    """Something the user or a peer can mend.

    Args:
        code: Stable, lower-case identifier, for example `depth_size`.
        message: What was expected, what was found, what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        # The default would call __init__ with the message alone when crossing a process border.
        return type(self), (self.code, self.message)


class InputError(Ex4dError):
    """A file, a value or a combination of them that cannot be used as it is."""


class ProtocolError(Ex4dError):
    """A peer sent something that the protocol does not allow."""


class TransferError(Ex4dError):
    """Bytes did not arrive, or were not the promised ones."""


class CancelledError(Ex4dError):
    """The work was cancelled; what was finished before stays as it is."""

    def __init__(self, code: str = "cancelled", message: str = "The work was cancelled.") -> None:
        super().__init__(code, message)
