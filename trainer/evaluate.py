"""`python -m trainer evaluate`: what a model can do, beside what can be done without it.

Captions of photographs are scored with COCO's metrics beside two baselines without a language model (the
nearest training photograph's caption, the consensus of thirty) and beside the model made blind. Questions are
scored by kind beside the blind model and beside guesses from the training answers alone. Plain-text questions
that the base model answers rightly show whether training on photographs cost the model its knowledge. The
model runs in this process (--checkpoint) or behind a service (--url). Results go to stdout as a table, to
--out as JSON, and beside it as PNG.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from trainer.answering import Answerer, AnswerError, ModelAnswerer, ServiceAnswerer, pooled
from trainer.data.dialogues.captions import Photo, read_captions
from trainer.data.dialogues.describe import FIRST_REQUEST
from trainer.data.dialogues.retention import RETENTION_QUESTIONS
from trainer.grading import Guesser, Question, is_right, keywords_right, read_questions
from trainer.metrics import CaptionScores, MetricsError, accuracy, bootstrap, caption_scores
from trainer.neighbours import Consensus, nearest
from trainer.report import draw, table

NEIGHBOURS = 30
METRICS = ("CIDEr", "Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "ROUGE_L")
BOOTSTRAPPED = ("CIDEr", "Bleu_4", "METEOR")


def evaluate_captions(
    photos: Sequence[Photo], captions: dict[str, dict[str, str]], *, against: str = "consensus"
) -> dict[str, dict]:
    """Scores of several sets of captions, name -> photograph -> caption, for the same photographs.

    Each gets `scores`, `intervals` (95 % bootstrap), `distinct` and, where `against` is one of the sets,
    `difference`: the paired bootstrap of the difference from it.
    """
    references = {photo.file: list(photo.captions) for photo in photos}
    scored: dict[str, CaptionScores] = {
        name: caption_scores(said, references) for name, said in captions.items()
    }
    results: dict[str, dict] = {}
    for name, scores in scored.items():
        results[name] = {
            "scores": {metric: scores.corpus[metric] for metric in METRICS},
            "intervals": {metric: asdict(bootstrap(scores, metric)) for metric in BOOTSTRAPPED},
            "distinct": scores.distinct,
            "images": len(captions[name]),
        }
        if against in scored and name != against:
            results[name]["difference"] = {
                metric: asdict(bootstrap(scores, metric, against=scored[against])) for metric in BOOTSTRAPPED
            }
    return results


def human_captions(photos: Sequence[Photo]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """(the first caption of each photograph, its other captions): the ceiling that people set."""
    return {p.file: p.captions[0] for p in photos}, {p.file: list(p.captions[1:]) for p in photos}


def evaluate_questions(questions: Sequence[Question], replies: dict[str, Sequence[str]]) -> dict[str, dict]:
    """kind -> name of the answerer -> accuracy with its interval; `questions` counts each kind."""
    kinds: dict[str, dict] = {}
    for kind in dict.fromkeys(q.kind for q in questions):
        at = [i for i, q in enumerate(questions) if q.kind == kind]
        kinds[kind] = {"questions": len(at)}
        for name, texts in replies.items():
            kinds[kind][name] = asdict(accuracy([is_right(questions[i], texts[i]) for i in at]))
    return kinds


def evaluate_retention(tuned: Sequence[str], base: Sequence[str] | None) -> dict:
    """How many of the held-out text questions are right, and of those that the base model answers rightly."""
    right = [keywords_right(reply, keys) for reply, (_, keys) in zip(tuned, RETENTION_QUESTIONS, strict=True)]
    result: dict = {"questions": len(right), "right": sum(right)}
    if base is not None:
        known = [
            keywords_right(reply, keys) for reply, (_, keys) in zip(base, RETENTION_QUESTIONS, strict=True)
        ]
        kept = [r for r, k in zip(right, known, strict=True) if k]
        result |= {"base_right": sum(known), "kept": sum(kept)}
        result["lost"] = [
            q for (q, _), r, k in zip(RETENTION_QUESTIONS, right, known, strict=True) if k and not r
        ]
    return result


def find_picture(name: str, folders: Sequence[Path]) -> Path:
    """The picture in the first folder that has it. Raises FileNotFoundError naming it."""
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{name} is in none of: {', '.join(map(str, folders))}")


def neighbour_captions(
    photos: Sequence[Photo],
    pictures: Sequence[Path],
    training: Sequence[Photo],
    folder: Path,
    cache: Path,
    preset: str,
) -> dict[str, dict[str, str]]:
    """Captions by the nearest training photograph and by consensus, with the preset's vision tower."""
    from shared.config import load_preset
    from shared.vision import load_vision_tower

    tower = load_vision_tower(load_preset(preset).vision)
    queries = pooled(tower, pictures, cache).numpy()
    shown = pooled(tower, [folder / p.file for p in training], cache).numpy()
    near = nearest(queries, shown, NEIGHBOURS)
    consensus = Consensus([p.captions for p in training])
    return {
        "nearest": {p.file: consensus.first(row[0]) for p, row in zip(photos, near, strict=True)},
        "consensus": {p.file: consensus.pick(row.tolist()) for p, row in zip(photos, near, strict=True)},
    }


def _read_records(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _answerers(args: argparse.Namespace) -> dict[str, Answerer]:
    """The answerers to compare: "model" and, in this process, "blind"; none with only --baselines."""
    if args.url:
        return {"model": ServiceAnswerer(args.url, args.concurrency)}
    if args.baselines:
        return {}
    from shared.checkpoint import load_model

    model = load_model(args.checkpoint, dtype=args.dtype, device=args.device)
    answerers = {"model": ModelAnswerer(model, args.cache, args.batch_size)}
    if args.blind:
        answerers["blind"] = ModelAnswerer(model, args.cache, args.batch_size, blind=True)
    return answerers


def _base_answers(args: argparse.Namespace) -> list[str]:
    """The untuned base model's answers to the retention questions."""
    from shared.checkpoint import build_model
    from shared.config import load_preset

    model = build_model(load_preset(args.preset), dtype=args.dtype).eval()
    return ModelAnswerer(model, args.cache, args.batch_size)([(q, None) for q, _ in RETENTION_QUESTIONS])


def _captions(args: argparse.Namespace, answerers: dict[str, Answerer], answers: dict) -> dict:
    photos = read_captions(args.captions)[: args.limit]
    pictures = [find_picture(p.file, args.images) for p in photos]
    captions: dict[str, dict[str, str]] = {}
    for name, answerer in answerers.items():
        said = answerer([(FIRST_REQUEST, picture) for picture in pictures])
        captions[name] = {p.file: text for p, text in zip(photos, said, strict=True)}
    if args.neighbours:
        training = read_captions(args.neighbours)
        captions |= neighbour_captions(
            photos, pictures, training, args.neighbour_images, args.cache, args.preset
        )
    answers["captions"] = captions
    results = evaluate_captions(photos, captions)
    said, others = human_captions(photos)
    scores = caption_scores(said, others)
    human = {m: asdict(bootstrap(scores, m)) for m in BOOTSTRAPPED}
    results["human"] = {"scores": {m: scores.corpus[m] for m in METRICS}, "intervals": human,
                        "distinct": scores.distinct, "images": len(photos)}  # fmt: skip
    return results


def _questions(args: argparse.Namespace, answerers: dict[str, Answerer], answers: dict) -> dict:
    questions = [q for path in args.annotations for q in read_questions(_read_records(path))]
    if args.limit:
        questions = questions[:: max(1, len(questions) // args.limit)][: args.limit]
    items = [(q.text, find_picture(q.image, args.images) if q.image else None) for q in questions]
    replies: dict[str, Sequence[str]] = {name: answerer(items) for name, answerer in answerers.items()}
    if args.training:
        guesser = Guesser([q for path in args.training for q in read_questions(_read_records(path))])
        replies["prior"] = [guesser.prior(q) for q in questions]
        replies["majority"] = [guesser.majority(q) for q in questions]
    answers["questions"] = [
        {"id": q.id, "image": q.image, "question": q.text, "accepted": q.accepted}
        | {name: {"reply": texts[i], "right": is_right(q, texts[i])} for name, texts in replies.items()}
        for i, q in enumerate(questions)
    ]
    return evaluate_questions(questions, replies)


def _retention(args: argparse.Namespace, answerer: Answerer, answers: dict) -> dict:
    tuned = answerer([(q, None) for q, _ in RETENTION_QUESTIONS])
    base = _base_answers(args)
    answers["retention"] = [
        {"question": q, "base": b, "model": t}
        for (q, _), b, t in zip(RETENTION_QUESTIONS, base, tuned, strict=True)
    ]
    return evaluate_retention(tuned, base)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--checkpoint", default="embedded", help="preset with weights or checkpoint directory")
    who.add_argument(
        "--url", help="a running service, such as http://127.0.0.1:8000, instead of a checkpoint"
    )
    who.add_argument("--baselines", action="store_true", help="no model: the baselines alone")
    what = parser.add_argument_group("what is asked")
    what.add_argument(
        "--captions", type=Path, metavar="TSV", help="lines of file<TAB>caption: score captions"
    )
    what.add_argument(
        "--annotations", type=Path, nargs="+", default=[], metavar="JSON", help="LLaVA records to ask"
    )
    what.add_argument("--images", type=Path, nargs="+", default=[], metavar="DIR", help="searched in order")
    what.add_argument("--retention", action="store_true", help="ask the held-out plain-text questions, too")
    what.add_argument("--limit", type=int, metavar="N", help="only N photographs and N questions")
    beside = parser.add_argument_group("what the model is compared with")
    beside.add_argument(
        "--neighbours", type=Path, metavar="TSV", help="training captions: 1-NN and consensus"
    )
    beside.add_argument("--neighbour-images", type=Path, metavar="DIR", help="default: the first of --images")
    beside.add_argument(
        "--training", type=Path, nargs="+", default=[], metavar="JSON", help="records of the guesses"
    )
    beside.add_argument(
        "--blind", action="store_true", help="the model with mean features (with --checkpoint)"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--preset", default="embedded", help="vision tower of the neighbours, base of the retention"
    )
    how.add_argument("--cache", type=Path, metavar="DIR", help="vision features (default: beside --out)")
    how.add_argument("--batch-size", type=int, default=32, metavar="N")
    how.add_argument("--concurrency", type=int, default=16, metavar="N", help="requests at once, with --url")
    how.add_argument("--dtype", default="auto")
    how.add_argument("--device", default="auto")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="JSON", help="results; .png and .answers.json beside"
    )


def run(args: argparse.Namespace) -> int:
    """Exit code 0, or 2 with a message for bad arguments or data, a missing Java, or a silent service."""
    if not (args.captions or args.annotations or args.retention):
        print("evaluate: nothing to do: give --captions, --annotations or --retention", file=sys.stderr)
        return 2
    args.cache = args.cache or args.out.parent / "features"
    args.neighbour_images = args.neighbour_images or (args.images[0] if args.images else None)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    results: dict = {"model": args.url or (None if args.baselines else str(args.checkpoint))}
    answers: dict = {}
    from shared.checkpoint import CheckpointError

    try:
        answerers = _answerers(args)
        if args.captions:
            results["captions"] = _captions(args, answerers, answers)
        if args.annotations:
            results["questions"] = _questions(args, answerers, answers)
        if args.retention and answerers:
            results["retention"] = _retention(args, answerers["model"], answers)
    except (AnswerError, CheckpointError, MetricsError, OSError, ValueError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    args.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    args.out.with_suffix(".answers.json").write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n")
    draw(results, args.out.with_suffix(".png"))
    print(table(results))
    return 0
