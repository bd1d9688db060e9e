"""Image files by name out of folders, zip archives and tar archives; nothing is unpacked.

Safe to use from several threads at once.
"""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Protocol

from trainer.data.records import RecordError


class ImageSource(Protocol):
    """One folder or archive."""

    def read(self, name: str, limit: int) -> bytes | None:
        """The first `limit` bytes of the file `name`, or None where there is none of that name."""


class ImageSources:
    """Several sources; the first that has a file wins.

    Raises:
        ValueError: a path is neither a folder nor an archive that gives out single files.
    """

    def __init__(self, paths: Iterable[Path]):
        self._sources = [_open(path) for path in paths]

    def read(self, name: str, limit: int) -> bytes:
        """At most `limit` bytes of the image `name`.

        Raises:
            RecordError: no source has it, it cannot be read, or its path leads out of the source.
        """
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise RecordError("the image's path leaves its folder")
        for source in self._sources:
            try:
                data = source.read(str(path), limit)
            # encrypted, compressed by an unknown method, damaged, unreadable on this disk
            except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise RecordError(f"the image cannot be read: {error}") from error
            if data is not None:
                return data
        raise RecordError("image not found")


def _open(path: Path) -> ImageSource:
    if path.is_dir():
        return _Folder(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such folder or archive of images")
    try:
        return _Zip(path) if zipfile.is_zipfile(path) else _Tar(path)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{path} is neither a folder nor a whole zip or uncompressed tar archive ({error}). "
            "Decompress a .tar.gz: single files cannot be read out of it."
        ) from error


class _Folder:
    def __init__(self, path: Path):
        self._path = path

    def read(self, name: str, limit: int) -> bytes | None:
        path = self._path / name
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(limit)


class _Zip:
    def __init__(self, path: Path):
        self._archive = zipfile.ZipFile(path)
        self._root = _common_root(self._archive.NameToInfo)
        self._lock = Lock()  # ZipFile counts its open members without one

    def read(self, name: str, limit: int) -> bytes | None:
        files = self._archive.NameToInfo
        info = files.get(name) or files.get(self._root + name)
        if info is None or info.is_dir():
            return None
        with self._lock, self._archive.open(info) as file:
            return file.read(limit)


class _Tar:
    def __init__(self, path: Path):
        self._places: dict[str, tuple[int, int]] = {}  # offset, size
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                if member.isreg() and not member.issparse():
                    self._places[member.name.removeprefix("./")] = (member.offset_data, member.size)
                archive.members.clear()  # or half a million of them would be kept
        self._root = _common_root(self._places)
        self._file = path.open("rb")

    def read(self, name: str, limit: int) -> bytes | None:
        place = self._places.get(name) or self._places.get(self._root + name)
        if place is None:
            return None
        offset, size = place
        return os.pread(self._file.fileno(), min(size, limit), offset)


def _common_root(names: Iterable[str]) -> str:
    """`train2017/` where that is how every name begins, as when a whole folder was archived."""
    roots = {name.partition("/")[0] if "/" in name else "" for name in names} - {"__MACOSX"}
    return f"{roots.pop()}/" if len(roots) == 1 and "" not in roots else ""
