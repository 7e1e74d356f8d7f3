"""Files here and elsewhere: a path of this machine, or an address that fsspec knows (gs://, s3://, hdfs://, https://)."""

import errno
import fcntl
import glob
import gzip
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from nuner_jax.errors import InputError


def is_address(path: str) -> bool:
    """Whether a path names another place than this machine's file system."""
    return "://" in path


def file_system(address: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path in it; a missing driver is an InputError."""
    try:
        import fsspec.core

        return fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise InputError(f"{address}: {error}") from None


def matching(path: str) -> list[str]:
    """The files of a path, a glob or an address, sorted; an address without a pattern is taken as it is."""
    if is_address(path):
        if not re.search(r"[*?\[]", path):
            return [path]
        system, _ = file_system(path)
        return sorted(system.unstrip_protocol(found) for found in system.glob(path))
    if os.path.exists(path):
        return [path]
    return sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Only this process writes to `path`, by a lock beside it that the kernel drops with the process, however that ends.

    Raises InputError with the other process's number if there is one. A file system without locks is taken at its word.
    """
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor, path)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = "" if path.is_dir() else os.read(descriptor, 20).decode(errors="replace").strip()
        owner = f" ({owner})" if owner else ""
        raise InputError(f"{path}: in use by another process{owner}; one process at a time may write to it") from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """As held, for a folder that is there, and without a file beside it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def open_raw(path: str | os.PathLike[str]) -> IO[bytes]:
    """A file's bytes as they are stored. Raises InputError."""
    path = os.fspath(path)
    try:
        if is_address(path):
            system, inner = file_system(path)
            return cast(IO[bytes], system.open(inner, "rb"))
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def open_bytes(path: str | os.PathLike[str]) -> IO[bytes]:
    """A file's bytes, uncompressed if its name ends in .gz. Raises InputError."""
    raw = open_raw(path)
    return cast(IO[bytes], gzip.open(raw)) if os.fspath(path).endswith(".gz") else raw


def open_text(path: str | os.PathLike[str], newline: str | None = None) -> IO[str]:
    """A file's text, as UTF-8. Raises InputError."""
    return io.TextIOWrapper(open_raw(path), encoding="utf8", newline=newline)
