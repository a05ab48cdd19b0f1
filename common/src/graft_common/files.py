"""Files: read whole, with errors that name them; written beside and renamed, so that no half-written one has a name."""

import hashlib
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graft_common.errors import InputError

MAX_FILE_BYTES = 4 << 30


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is flushed to disk and renamed, else removed.

    Missing folders are made. Raises InputError when the folder cannot be made or written.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        ours = {str(p) for p in (path, beside, *path.parents)}
        # an error about another file, raised by the caller's own block, is not about this path
        if error.filename is not None and str(error.filename) not in ours:
            raise
        why = error.strerror or type(error).__name__
        raise InputError(
            f"{typed(path)}: cannot be written ({why}); choose a folder with space and permission"
        ) from error


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` to `path` atomically and return the path. Raises InputError when it cannot be written."""
    with atomic_path(path) as beside:
        beside.write_bytes(data)
    return Path(path)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write `text` as UTF-8, its line ends as they are, as `write_bytes` does."""
    return write_bytes(path, text.encode())


def sha256(path: str | os.PathLike[str]) -> str:
    """Hex digest of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def typed(path: str | os.PathLike[str]) -> str:
    """The path as the user typed it, on one line: unprintable characters are escaped."""
    text = os.fspath(path)
    return text if text.isprintable() else ascii(text)


def read_bytes(path: str | os.PathLike[str], where: str | None = None) -> bytes:
    """Bytes of a regular, non-empty file of at most 4 GiB; anything else is an InputError that starts with `where`."""
    where = typed(path) if where is None else where
    try:
        info = os.stat(path)
        if stat.S_ISDIR(info.st_mode):
            raise InputError(f"{where}: is a folder; give a file")
        if not stat.S_ISREG(info.st_mode):  # a pipe or a device could block or never end
            raise InputError(f"{where}: is not a regular file; copy it to disk first")
        if info.st_size == 0:
            raise InputError(f"{where}: is empty (0 bytes); give a complete file")
        if info.st_size > MAX_FILE_BYTES:
            raise InputError(f"{where}: has {info.st_size} bytes, the limit is {MAX_FILE_BYTES}; crop or split it")
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{where}: no such file; check the path") from error
    except PermissionError as error:
        raise InputError(f"{where}: may not be read (permission denied); change its permissions") from error
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"{where}: cannot be read ({one_line(error)}); check the path") from error


@contextmanager
def parsing(where: str, what: str) -> Iterator[None]:
    """Turn whatever a third-party decoder raises on damaged bytes into one InputError; its warnings are silenced.

    Decoders raise nearly every built-in exception on hostile bytes (struct, zlib, key, index, overflow, memory ...), so
    the net is wide on purpose; keep the body to calls into the decoder and checks of what the file claims.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{where}: cannot be read as {what} ({one_line(error)}); give a complete, valid file"
        ) from error


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Silence C libraries (libtiff, OpenCV) that write their complaints straight to file descriptor 2.

    It holds for the whole process, so keep the body short; without an open descriptor 2 it does nothing.
    """
    try:
        saved = os.dup(2)
    except OSError:
        yield
        return
    try:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def one_line(error: BaseException | str, limit: int = 160) -> str:
    """A text, or an exception's, on one printable line of at most `limit` characters; the class where it has none."""
    text = re.sub(r" ?<_io\.BytesIO[^>]*>", "", str(error))  # an address says nothing and changes from run to run
    text = " ".join(text.split()) or type(error).__name__
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."
