"""A disk of the measurement's own: ext4 as it comes, on a sparse file."""

import contextlib
import pathlib
import tempfile

from host import CLONE_NEWNS, LIBC, checked, run

# Bytes it may grow to; what is not written takes none.
SIZE = 40 << 30


@contextlib.contextmanager
def own_disk():
    """Its directory; mounted for this process and its children alone.

    The machine's own may be one without a journal, and such an ext4 gives out no inode again in the minutes after it was
    freed (fs/ext4/ialloc.c, recently_deleted): it looks through all of them for each new file. Pulls that follow on removals
    would measure that.
    """
    with tempfile.TemporaryDirectory(prefix="wharf-bench-", ignore_cleanup_errors=True) as outer:
        image, root = pathlib.Path(outer) / "disk", pathlib.Path(outer) / "root"
        with open(image, "wb") as file:
            file.truncate(SIZE)
        root.mkdir()
        run("mkfs.ext4", "-q", "-F", image)
        checked(LIBC.unshare(CLONE_NEWNS), "a mount namespace")
        run("mount", "--make-rprivate", "/")
        run("mount", "-o", "loop", image, root)
        try:
            yield root
        finally:
            run("umount", "-l", root)
