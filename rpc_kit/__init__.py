"""What every Sky Port server and client shares on the wire: errors, channels, streams."""

import os

# grpc writes lines of its own to standard error (a refused handshake, a lost link), between the
# lines of a table or of a JSON log. What matters of them comes back as the status of a call.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
