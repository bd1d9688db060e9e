"""Arrow shards: rows written once, memory-mapped when read, any row without the others.

Arrow's IPC file format as pyarrow writes it; Hugging Face `datasets` opens the same files.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

TURN = pa.struct([("from", pa.string()), ("value", pa.string())])
RECORDS = pa.schema(
    [("id", pa.string()), ("image", pa.string()), ("kind", pa.string()), ("conversations", pa.list_(TURN))]
)
# An image that cannot be used keeps its row: no jpeg, and why.
IMAGES = pa.schema([("name", pa.string()), ("jpeg", pa.binary()), ("error", pa.string())])


def shard_name(part: str, number: int) -> str:
    """`images-00003.arrow`."""
    return f"{part}-{number:05d}.arrow"


@contextmanager
def new_shard(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatchWriter]:
    """A writer of `path`, which appears only when whole."""
    scratch = path.with_suffix(".partial")
    with pa.OSFile(str(scratch), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        yield writer
    scratch.replace(path)


def read_batches(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The batches of a shard one after the other, of all columns or only of `columns`; none of them kept.

    Read, not mapped: a page looked at in a mapping of gigabytes counts as memory of the process until it ends.
    """
    with pa.OSFile(str(path)) as file:
        reader = pa.ipc.open_file(file)
        if columns:
            fields = [reader.schema.get_field_index(name) for name in columns]
            reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields))
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


def count_rows(path: Path) -> int:
    """Rows of a shard."""
    with pa.OSFile(str(path)) as file:
        first = pa.ipc.open_file(file).schema.names[0]
    return sum(batch.num_rows for batch in read_batches(path, [first]))


def read_column(paths: list[Path], name: str) -> pa.ChunkedArray:
    """One column of all rows of the shards, copied: what a batch was read into goes when its rows go."""
    arrays = [_copy(batch[name]) for path in paths for batch in read_batches(path, [name])]
    return pa.chunked_array(arrays, None if arrays else pa.string())


def _copy(array: pa.Array) -> pa.Array:
    return pa.concat_arrays([array, array.slice(0, 0)])


class Rows:
    """Rows of shards, in order.

    Raises:
        ValueError: a shard is missing or damaged.
    """

    def __init__(self, paths: list[Path]):
        self.paths = paths
        self.batches: list[pa.RecordBatch] = []
        for path in paths:
            try:
                reader = pa.ipc.open_file(pa.memory_map(str(path)))
                self.batches += [reader.get_batch(index) for index in range(reader.num_record_batches)]
            except (OSError, pa.ArrowInvalid) as error:
                raise ValueError(f"{path} cannot be read: {error}. Prepare the data again.") from error
        self._starts: list[int] = []
        self._length = 0
        for batch in self.batches:
            self._starts.append(self._length)
            self._length += batch.num_rows

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> dict:
        if not 0 <= row < self._length:
            raise IndexError(f"row {row} of {self._length}")
        index = bisect_right(self._starts, row) - 1
        batch, place = self.batches[index], row - self._starts[index]
        return {
            name: column[place].as_py()
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        }

    def __iter__(self) -> Iterator[dict]:
        for batch in self.batches:
            for start in range(0, batch.num_rows, 256):
                yield from batch.slice(start, 256).to_pylist()

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all rows; the others are not touched."""
        return read_column(self.paths, name)
