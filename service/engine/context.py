"""How far back a language model's tokens see, and how far its positions go."""

from transformers import PreTrainedConfig


def stable_context(config: PreTrainedConfig) -> int:
    """Tokens over which position embeddings do not depend on the longest request of the batch: all that the
    model was made for, but for LongRoPE (Phi-3's long variants) only those before it changes its factors."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return config.max_position_embeddings
    return rope.get("original_max_position_embeddings") or config.original_max_position_embeddings


def uniform_window(config: PreTrainedConfig) -> int | None:
    """The sliding window that all layers of a language model share, in tokens; None for full attention.

    Raises:
        ValueError: its layers attend in different ways, which one mask cannot express.
    """
    kinds = set(getattr(config, "layer_types", None) or [])
    window = getattr(config, "sliding_window", None)
    if len(kinds) > 1:
        raise ValueError(
            f"one attention mask cannot serve {', '.join(sorted(kinds))} layers together; use the sequential engine"
        )
    return None if kinds == {"full_attention"} else window
