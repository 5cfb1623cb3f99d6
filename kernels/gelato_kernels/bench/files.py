"""Files that are known to be writable before minutes of measuring, and then whole or not there at all."""

import os
import tempfile
from pathlib import Path


def writable(path: Path) -> Path:
    """The path, if a file can be put there.

    Raises:
        ValueError: it is a folder, or its folder is missing or closed to us.
    """
    path = path.expanduser()
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a file to write")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path}: nothing can be written to {path.parent}")
    return path


def write(path: Path, content: bytes) -> None:
    """Write a file beside its destination and rename it.

    Raises:
        OSError: no space, or the folder is gone.
    """
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)  # a temporary file is its owner's alone; a result is not
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
