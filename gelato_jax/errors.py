"""The one kind of error that a user can mend.

Whoever raises it says in one line which value, file or name is wrong and what to change; the command line
prints that line and ends with exit code 2. Every other exception is a fault of this package and keeps its traceback.
"""


class GelatoError(ValueError):
    """A mistake in what the user gave: a setting, a prompt, a file. Its message is one line that names the fix."""
