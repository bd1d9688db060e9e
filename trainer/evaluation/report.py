"""An evaluation's results for people: a table in text and one picture."""

from __future__ import annotations

from pathlib import Path

_ORDER = ("model", "blind", "nearest", "consensus", "prior", "majority", "human")
_VQA = ("vqav2", "textvqa", "gqa")
_COUNTS = ("questions", "records")
_COLOURS = {
    "model": "#1f77b4", "blind": "#9ecae1", "nearest": "#c7c7c7", "consensus": "#7f7f7f",
    "prior": "#7f7f7f", "majority": "#c7c7c7", "human": "#2ca02c",
}  # fmt: skip


def table(results: dict) -> str:
    """The results as aligned text; CIDEr as 0.48, the other scores in per cent."""
    return "\n\n".join(
        part
        for part in (
            _caption_table(results.get("captions", {})),
            _question_table(results.get("questions", {})),
            _vqa_table({name: results[name] for name in _VQA if name in results}),
            _pope_table(results.get("pope", {})),
            _perplexity_table(results.get("perplexity", {})),
            _retention_line(results.get("retention", {})),
        )
        if part
    )


def _names(found: dict) -> list[str]:
    return [n for n in _ORDER if n in found] + [n for n in found if n not in _ORDER and n not in _COUNTS]


def _caption_table(captions: dict) -> str:
    if not captions:
        return ""
    rows = [("captions", "CIDEr", "95 %", "over consensus", "B-1", "B-4", "METEOR", "ROUGE-L", "distinct")]
    for name in _names(captions):
        result = captions[name]
        scores, near = result["scores"], result["intervals"]["CIDEr"]
        over = result.get("difference", {}).get("CIDEr")
        rows.append(
            (
                name,
                f"{scores['CIDEr']:.3f}",
                f"{near['low']:.3f}..{near['high']:.3f}",
                f"{over['value']:+.3f} ({over['low']:+.3f}..{over['high']:+.3f})" if over else "",
                *(f"{100 * scores[m]:.1f}" for m in ("Bleu_1", "Bleu_4", "METEOR", "ROUGE_L")),
                f"{result['distinct']} of {result['images']}",
            )
        )
    return _aligned(rows)


def _question_table(kinds: dict) -> str:
    if not kinds:
        return ""
    names = _names(next(iter(kinds.values())))
    rows = [("questions", "number", *names)]
    for kind, found in kinds.items():
        cells = (_percent(found[name]) for name in names)
        rows.append((kind, str(found["questions"]), *cells))
    return _aligned(rows)


def _vqa_table(sets: dict) -> str:
    if not sets:
        return ""
    rows = [("accuracy", "questions", "answers of", "all (95 %)", "by kind")]
    for name, found in sets.items():
        for who in _names(found):
            kinds = found[who]["by_kind"]
            each = ", ".join(f"{kind} {100 * value:.1f}" for kind, value in kinds.items())
            rows.append(
                (
                    name,
                    str(found["questions"]),
                    who,
                    _percent(found[who]["accuracy"]),
                    each if len(kinds) > 1 else "",
                )
            )
    return _aligned(rows)


def _pope_table(settings: dict) -> str:
    if not settings:
        return ""
    rows = [("POPE", "questions", "answers of", "accuracy (95 %)", "precision", "recall", "F1", "yes")]
    for setting, found in settings.items():
        for who in _names(found):
            scores = found[who]
            rest = (f"{100 * scores[m]['value']:.1f}" for m in ("precision", "recall", "f1", "yes_ratio"))
            rows.append((setting, str(found["questions"]), who, _percent(scores["accuracy"]), *rest))
    return _aligned(rows)


def _perplexity_table(found: dict) -> str:
    if not found:
        return ""
    rows = [("answers given", "records", "tokens", "perplexity", "nats per token")]
    for who in _names(found):
        values = found[who]
        numbers = (f"{values['perplexity']:.3f}", f"{values['nats_per_token']:.4f}")
        rows.append((who, str(found["records"]), str(values["tokens"]), *numbers))
    return _aligned(rows)


def _percent(interval: dict) -> str:
    return f"{100 * interval['value']:.1f} ({100 * interval['low']:.0f}..{100 * interval['high']:.0f})"


def _retention_line(retention: dict) -> str:
    if not retention:
        return ""
    line = f"plain-text questions right: {retention['right']} of {retention['questions']}"
    if "kept" in retention:
        line += f"; of the {retention['base_right']} that the base model answers rightly: {retention['kept']}"
    return line


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def draw(results: dict, path: Path) -> None:
    """Bars with 95 % intervals: CIDEr of captions, accuracy of each kind of question and of each benchmark."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = []  # title, group -> name -> interval, scale
    if captions := results.get("captions"):
        panels.append(
            ("captions: CIDEr", {n: {n: captions[n]["intervals"]["CIDEr"]} for n in _names(captions)}, 1)
        )
    if kinds := results.get("questions"):
        panels.append(("questions: per cent right", {k: _only(found) for k, found in kinds.items()}, 100))
    groups = {
        name: {n: results[name][n]["accuracy"] for n in _names(results[name])}
        for name in _VQA
        if name in results
    }
    for setting, found in results.get("pope", {}).items():
        groups[f"POPE {setting}"] = {n: found[n]["accuracy"] for n in _names(found)}
    if groups:
        panels.append(("benchmarks: accuracy in per cent", groups, 100))
    panels = [panel for panel in panels if any(panel[1].values())]
    if not panels:
        return
    widths = [2 + len(groups) for _, groups, _ in panels]
    figure, axes = pyplot.subplots(
        1,
        len(panels),
        figsize=(0.8 * sum(widths) + 1, 4),
        width_ratios=widths,
        squeeze=False,
        layout="constrained",
    )
    for axis, (title, groups, scale) in zip(axes[0], panels, strict=True):
        _panel(axis, groups, scale)
        axis.set_title(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _only(found: dict) -> dict:
    return {name: found[name] for name in _names(found)}


def _panel(axis, groups: dict[str, dict[str, dict]], scale: float) -> None:
    """One group of bars per key of `groups`, one bar per answerer."""
    names = list(dict.fromkeys(name for found in groups.values() for name in found))
    alone = all(len(found) == 1 for found in groups.values())
    width = 0.7 if alone else 0.8 / len(names)
    for i, name in enumerate(names):
        at = [k for k, found in enumerate(groups.values()) if name in found]
        shift = 0.0 if alone else (i - (len(names) - 1) / 2) * width
        intervals = [found[name] for found in groups.values() if name in found]
        _bars(axis, [k + shift for k in at], intervals, width, _colour(name), label=name, scale=scale)
    axis.set_xticks(range(len(groups)), list(groups), rotation=30)
    if scale == 100:
        axis.set_ylim(0, 100)
    if not alone:
        axis.legend(fontsize=8)


def _colour(name: str) -> str:
    return _COLOURS.get(name, "#ff7f0e")


def _bars(
    axis, at, intervals: list[dict], width: float, colour, *, label: str | None = None, scale: float = 1
) -> None:
    """Bars at `at` with error bars from low to high."""
    values = [scale * i["value"] for i in intervals]
    below = [scale * max(0.0, i["value"] - i["low"]) for i in intervals]
    above = [scale * max(0.0, i["high"] - i["value"]) for i in intervals]
    axis.bar(
        at, values, width, color=colour, label=label, yerr=(below, above), error_kw={"lw": 1, "capsize": 2}
    )
