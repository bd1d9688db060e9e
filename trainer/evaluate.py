"""`python -m trainer evaluate`: what a model can do, beside what can be done without it.

Captions are scored with COCO's metrics beside baselines without a language model; questions by kind beside
guesses from the training answers; VQAv2, TextVQA, GQA and POPE by their own rules; plain-text questions show
whether training on photographs cost the model its knowledge; perplexity needs no generation. The model runs
in this process (--checkpoint) or behind a service (--url). Answers are written as they come, and a stopped call
goes on with --resume; all are there before any is scored.
Results go to stdout as a table, to --out as JSON, and beside it as PNG.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Sequence

from shared.config import ModelConfig, load_preset
from trainer.evaluation.answering import Answerer, AnswerError, ModelAnswerer, ServiceAnswerer
from trainer.evaluation.config import EvaluateConfig
from trainer.evaluation.journal import Item, Journal
from trainer.evaluation.metrics import MetricsError
from trainer.evaluation.report import draw, table

log = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig) -> int:
    """Exit code 0, or 2 with a message for bad arguments or data, a missing Java, or a silent service."""
    results: dict = {"model": config.url or (None if config.baselines else config.checkpoint)}
    answers: dict = {}
    config.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        tasks = _tasks(config)
        answerers, journals = _answerers(config)
        for task in tasks:
            answers[task.name] = task.ask(answerers)
            _write(config.out.with_suffix(".answers.json"), answers)
        for journal in journals:
            journal.remove()
    except (AnswerError, MetricsError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    failed = _score(tasks, results)
    _write(config.out, results)
    draw(results, config.out.with_suffix(".png"))
    print(table(results))
    for name, error in failed.items():
        kept = config.out.with_suffix(".answers.json")
        print(f"evaluate: {name} could not be scored ({error}); the answers are in {kept}", file=sys.stderr)
    return 2 if failed else 0


def _score(tasks: list, results: dict) -> dict[str, str]:
    """Scores into `results`; what a scorer that broke said, by task. Its fault costs the others nothing."""
    failed = {}
    for task in tasks:
        try:
            results[task.name] = task.score()
        except Exception as error:
            failed[task.name] = f"{type(error).__name__}: {error}"
    return failed


def _tasks(config: EvaluateConfig) -> list:
    """What was asked for; files and pictures are checked here, before anything is answered."""
    from trainer.evaluation.captions import CaptionTask
    from trainer.evaluation.perplexity import PerplexityTask
    from trainer.evaluation.pope import PopeTask
    from trainer.evaluation.questions import QuestionTask, RetentionTask
    from trainer.evaluation.vqa import VqaTask, read_gqa, read_textvqa, read_vqa

    tasks: list = []
    if config.captions:
        tasks.append(CaptionTask(config, _preset(config)))
    if config.annotations:
        tasks.append(QuestionTask(config))
    for name, files, read in (
        ("vqav2", config.vqa, read_vqa),
        ("textvqa", [config.textvqa] if config.textvqa else [], read_textvqa),
        ("gqa", [config.gqa] if config.gqa else [], read_gqa),
    ):
        if files:
            tasks.append(VqaTask(name, read(*files), config))
    if config.pope or config.pope_boxes:
        tasks.append(PopeTask(config))
    if config.perplexity:
        tasks.append(PerplexityTask(config))
    if config.retention:
        _preset(config)  # an unknown one is said now
        tasks.append(RetentionTask(lambda items: _base_answers(config, items)))
    return tasks


def _answerers(config: EvaluateConfig) -> tuple[dict[str, Answerer], list[Journal]]:
    """The answerers to compare, "model" and, in this process, "blind", and what they write; none with only
    --baselines."""
    journals: list[Journal] = []

    def journal(name: str) -> Journal:
        path = config.out.with_suffix(f".{name}.jsonl")
        journals.append(Journal(path, _name(config), resume=config.resume))
        return journals[-1]

    if config.url:
        if config.blind:
            log.warning("a service cannot be made blind: --blind is left out")
        key = os.environ.get("SERVICE_API_KEY")
        service = ServiceAnswerer(config.url, config.concurrency, api_key=key, journal=journal("model"))
        return {"model": service}, journals
    if config.baselines:
        return {}, []
    from shared.checkpoint import load_model

    model = load_model(config.checkpoint, dtype=config.dtype, device=config.device)
    answerers: dict[str, Answerer] = {
        name: ModelAnswerer(
            model, config.features, config.batch_size, blind=name == "blind", journal=journal(name)
        )
        for name in (["model", "blind"] if config.blind else ["model"])
    }
    return answerers, journals


def _name(config: EvaluateConfig) -> str:
    """Of who answers: a service's address, which is trusted to be of the same model, or a checkpoint, its weights and
    their dtype."""
    if config.url:
        return config.url
    from shared.checkpoint import checkpoint_folder

    manifest = checkpoint_folder(config.checkpoint) / "manifest.json"
    return f"{config.checkpoint} {hashlib.sha256(manifest.read_bytes()).hexdigest()[:12]} {config.dtype}"


def _base_answers(config: EvaluateConfig, items: Sequence[Item]) -> list[str]:
    """The untuned base model's answers."""
    import torch

    from shared.checkpoint import build_model

    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_model(_preset(config), dtype=config.dtype, device=device).eval()
    model.projector.to(model.dtype)
    return ModelAnswerer(model, config.features, config.batch_size)(items)


def _preset(config: EvaluateConfig) -> ModelConfig:
    """The preset given, else the checkpoint's own, else `embedded` where there is no checkpoint."""
    if config.preset is not None:
        return load_preset(config.preset)
    if config.url or config.baselines:
        return load_preset("embedded")
    from shared.checkpoint import checkpoint_folder, read_config

    return read_config(checkpoint_folder(config.checkpoint))


def _write(path, values: dict) -> None:
    """JSON that appears whole."""
    scratch = path.with_suffix(".partial")
    scratch.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    scratch.replace(path)
