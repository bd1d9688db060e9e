"""The C++ decoder behind a small Python face: sequences with memory of their own, and one forward pass."""

import ctypes

import torch
from torch import Tensor
from transformers import PreTrainedModel

from service.engine.decoder import BLOCK, Span
from service.engine.native.build import load_library
from service.engine.native.weights import Format, Model, PackedModel


class Row(ctypes.Structure):
    """As in `decoder.cpp`."""

    _fields_ = [
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("position", ctypes.c_int32),
        ("capacity", ctypes.c_int32),
    ]


class KeyValues:
    """Memory of one sequence, laid out by `attention.h`: of every layer and key/value head, what belongs to the
    tokens of a block lies together, keys and values."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, tokens: int, dtype: torch.dtype) -> None:
        blocks = -(-tokens // BLOCK)
        self.capacity = blocks * BLOCK
        self.keys = torch.empty(layers, kv_heads, blocks, head_dim, BLOCK, dtype=dtype)
        self.values = torch.empty(layers, kv_heads, blocks, BLOCK, head_dim, dtype=dtype)

    def copy_from(self, source: "KeyValues", tokens: int) -> None:
        """The first `tokens` of another sequence, a multiple of `BLOCK`."""
        blocks = tokens // BLOCK
        self.keys[:, :, :blocks] = source.keys[:, :, :blocks]
        self.values[:, :, :blocks] = source.values[:, :, :blocks]


class NativeDecoder:
    """Computes a transformers causal LM (Llama, Phi, Phi-3) on the CPU.

    Args:
        format: of the weights; int8 also rounds activations, in groups of 64.
        max_rows: tokens in one pass at most.
        max_positions: tokens of the longest sequence.
        threads: of the pool; the caller's is one of them.
        release: see `PackedModel`.

    Raises:
        Unsupported: the model is not one that the decoder computes.
        BuildError: the decoder cannot be compiled here.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        *,
        format: Format,
        max_rows: int,
        max_positions: int,
        threads: int,
        release: bool = False,
    ) -> None:
        self._library = load_library()
        self._library.decoder_new.restype = ctypes.c_void_p
        self._library.decoder_new.argtypes = [ctypes.POINTER(Model), *3 * [ctypes.c_int]]
        self._packed = PackedModel(lm, format, positions=max_positions, release=release)
        struct = self._packed.struct
        self._vocabulary = struct.head.outputs
        self._memory_shape = (struct.layers, struct.kv_heads, struct.head_dim)
        self._memory_dtype = torch.float32 if format == "float32" else torch.bfloat16
        self._capacity = 0
        self.max_rows = max_rows
        self._max_positions = max_positions
        self._rows = (Row * max_rows)()
        self._decoder = ctypes.c_void_p(
            self._library.decoder_new(ctypes.byref(struct), max_rows, max_positions, threads)
        )
        if not self._decoder:
            raise MemoryError("the decoder's buffers and threads cannot be allocated")

    def close(self) -> None:
        if self._decoder:
            self._library.decoder_delete(self._decoder)
            self._decoder = None

    @property
    def capacity(self) -> int:
        return self._capacity

    def footprint(self, lengths: list[int]) -> int:
        return sum(-(-length // BLOCK) * BLOCK for length in lengths)

    def allocate(self, tokens: int) -> KeyValues:
        memory = KeyValues(*self._memory_shape, tokens, self._memory_dtype)
        self._capacity += memory.capacity
        return memory

    def free(self, memory: KeyValues) -> None:
        self._capacity -= memory.capacity

    def save(self, memory: KeyValues, tokens: int) -> KeyValues:
        saved = KeyValues(*self._memory_shape, tokens, self._memory_dtype)
        saved.copy_from(memory, tokens)
        return saved

    def load(self, memory: KeyValues, saved: KeyValues, tokens: int) -> None:
        memory.copy_from(saved, tokens)

    def forward(self, inputs_embeds: Tensor, spans: list[Span]) -> Tensor:
        """See `Decoder`; at most `max_rows` tokens. The interpreter is free while it computes."""
        index, wanted = 0, []
        for span in spans:
            memory = span.memory
            keys, values, capacity = memory.keys.data_ptr(), memory.values.data_ptr(), memory.capacity
            if span.start + span.count > (limit := min(capacity, self._max_positions)):
                raise ValueError(f"{span.start + span.count} tokens do not fit into memory for {limit}")
            for position in range(span.start, span.start + span.count):
                self._rows[index] = Row(keys, values, position, capacity)
                index += 1
            if span.wanted:
                wanted.append(index - 1)
        if index != len(inputs_embeds) or index > self.max_rows:
            raise ValueError(f"{len(inputs_embeds)} embeddings for {index} tokens, at most {self.max_rows}")
        inputs_embeds = inputs_embeds.to("cpu", torch.float32).contiguous()
        logits = torch.empty(len(wanted), self._vocabulary)
        self._library.decoder_forward(
            self._decoder,
            ctypes.c_int(index),
            ctypes.c_void_p(inputs_embeds.data_ptr()),
            self._rows,
            ctypes.c_int(len(wanted)),
            (ctypes.c_int32 * len(wanted))(*wanted),
            ctypes.c_void_p(logits.data_ptr()),
        )
        return logits
