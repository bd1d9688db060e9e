"""Who speaks when: a pyannote pipeline that the operator gives. Only the worker process imports this module."""

import numpy as np
from whisperx.diarize import DiarizationPipeline


class Diariser:
    """A loaded pyannote speaker-diarisation pipeline.

    Args:
        model: a directory, a pipeline's configuration file, or a hub name.
        device: as torch names it.

    Raises:
        Exception: of whatever kind pyannote has for a model that does not load.
    """

    def __init__(self, model: str, device: str) -> None:
        self._pipeline = DiarizationPipeline(model_name=model, device=device)

    def turns(self, audio: np.ndarray) -> tuple[tuple[float, float, str], ...]:
        """Start, end (seconds) and speaker of each turn in mono 16 kHz float32 `[samples]`, by start.

        Speakers are `A`, `B`, ... in the order in which they first speak.
        """
        found = self._pipeline(audio).sort_values("start")
        names: dict[str, str] = {}
        for label in found["speaker"]:
            names.setdefault(label, _letters(len(names)))
        return tuple(
            (float(turn.start), float(turn.end), names[turn.speaker])
            for turn in found.itertuples(index=False)
        )


def _letters(index: int) -> str:
    """A to Z, then AA, AB, ..."""
    head, last = divmod(index, 26)
    return (_letters(head - 1) if head else "") + chr(ord("A") + last)
