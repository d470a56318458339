"""Users of a server under test, each one that nobody had before."""

import itertools

from ex4d_server.keys import FolderKeys
from server_process import KeyPair, ServerProcess, make_key_pair

_numbers = itertools.count()


def add_user(server: ServerProcess) -> tuple[str, KeyPair]:
    """Authorise a new user; quicker than through the command line."""
    user, keys = f"user-{next(_numbers)}", make_key_pair()
    FolderKeys(server.data).authorise(user, keys.public_key)
    return user, keys
