"""Owns layers: a folder as a tar file that is the same whenever, wherever and by whomever made."""

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.image.staging import Interpreter

# Where everybody may write; all else belongs to root.
_SHARED = frozenset({"tmp", "var/tmp"})
_GZIP = """
import gzip, shutil, sys
with open(sys.argv[1], "rb") as plain, open(sys.argv[2], "wb") as packed:
    with gzip.GzipFile("", "wb", 6, packed, mtime=0) as stream:
        shutil.copyfileobj(plain, stream, 1 << 20)
"""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of an image: its file, compressed, and the digest and size of what is in it."""

    path: Path
    diff_id: str
    size: int
    created_by: str


def make_layer(
    folder: Path, path: Path, *, epoch: int, interpreter: Interpreter, created_by: str
) -> Layer:
    """Pack `folder` as the layer `path`, every time stamp being `epoch`.

    The image's own Python compresses it, as others' zlib may give other bytes.
    """
    plain = path.with_suffix(".tar")
    with tarfile.open(plain, "w", format=tarfile.PAX_FORMAT) as archive:
        for file, entry in entries(folder, epoch):
            if entry.isreg():
                with file.open("rb") as content:
                    archive.addfile(entry, content)
            else:
                archive.addfile(entry)
    with plain.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    interpreter.run("-c", _GZIP, str(plain), str(path))
    size = plain.stat().st_size
    plain.unlink()
    return Layer(path, f"sha256:{digest}", size, created_by)


def entries(folder: Path, epoch: int) -> Iterator[tuple[Path, tarfile.TarInfo]]:
    """Yield all that is in `folder`, in order, as entries of a tar file that belong to root."""
    for file in sorted(folder.rglob("*"), key=lambda file: file.relative_to(folder).parts):
        entry = tarfile.TarInfo(str(file.relative_to(folder)))
        entry.mtime = epoch
        if file.is_symlink():
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, str(file.readlink()), 0o777
        elif file.is_dir():
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if entry.name in _SHARED else 0o755
        else:
            status = file.stat()
            entry.size, entry.mode = status.st_size, 0o755 if status.st_mode & 0o100 else 0o644
        yield file, entry
