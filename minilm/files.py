"""Writing a file whole or not at all, so that no crash and no full disk costs a reader what was there before."""

import os
import secrets
from pathlib import Path


def write(path: str | Path, content: bytes) -> None:
    """Put ``content`` at ``path`` by one rename, in a folder that is made if need be.

    Should anything fail, a file that stood there keeps its bytes. Raises the OSError of the disk.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder, "new", "note.txt"), b"first")
    ...     write(Path(folder, "new", "note.txt"), b"second")
    ...     [(path.name, path.read_bytes()) for path in Path(folder, "new").iterdir()]
    [('note.txt', b'second')]
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f"{os.getpid()}-{secrets.token_hex(4)}"  # two threads, or containers, may write to one path
    draft = path.with_name(f"{path.name}.{own}.part")  # in the same folder, so the rename cannot be a copy
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
