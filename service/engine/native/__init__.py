"""A decoder in C++ for CPUs: the whole language model in one call, on packed float32, bfloat16 or int8 weights.

`build` compiles it for the processor at hand, `weights` packs a transformers model for it, `decoder` calls it.
"""
