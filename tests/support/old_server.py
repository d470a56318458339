"""`ex4d` as it was with protocol 1.0: it neither sends nor understands what came later.

python old_server.py serve ...
"""

import sys

from ex4d.protocol import codec, messages

messages.PROTOCOL_MINOR = 0
#: No client reaches them: nobody is sent what they brought.
messages.PREVIEW_MINOR = messages.ESTIMATORS_MINOR = messages.TAKE_TIMES_MINOR = sys.maxsize
del codec._CLIENT_KINDS["job_preview_taken"]
del codec._SERVER_KINDS["job_preview"], codec._SERVER_KINDS["take_times"]

if __name__ == "__main__":
    from ex4d.cli import main

    sys.exit(main())
