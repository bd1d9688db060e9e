"""An evaluation's results for people: a table in text and one picture."""

from __future__ import annotations

from pathlib import Path

_ORDER = ("model", "blind", "nearest", "consensus", "prior", "majority", "human")
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
            _retention_line(results.get("retention", {})),
        )
        if part
    )


def _names(found: dict) -> list[str]:
    return [n for n in _ORDER if n in found] + [n for n in found if n not in _ORDER and n != "questions"]


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
        cells = (
            f"{100 * a['value']:.1f} ({100 * a['low']:.0f}..{100 * a['high']:.0f})"
            for a in map(found.get, names)
        )
        rows.append((kind, str(found["questions"]), *cells))
    return _aligned(rows)


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
    """Bars with 95 % intervals: CIDEr of each set of captions, accuracy of each kind of question."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    captions, kinds = results.get("captions", {}), results.get("questions", {})
    wanted = [bool(captions), bool(kinds)]
    if not any(wanted):
        return
    widths = [w for w, shown in zip((3, 7), wanted, strict=True) if shown]
    figure, axes = pyplot.subplots(
        1,
        len(widths),
        figsize=(1.3 * sum(widths) + 1, 4),
        width_ratios=widths,
        squeeze=False,
        layout="constrained",
    )
    remaining = list(axes[0])
    if captions:
        axis, names = remaining.pop(0), _names(captions)
        _bars(
            axis,
            range(len(names)),
            [captions[n]["intervals"]["CIDEr"] for n in names],
            0.7,
            [_colour(n) for n in names],
        )
        axis.set_xticks(range(len(names)), names, rotation=30)
        axis.set_title("captions: CIDEr")
    if kinds:
        axis, names = remaining.pop(0), _names(next(iter(kinds.values())))
        width = 0.8 / max(1, len(names))
        for i, name in enumerate(names):
            at = [k + (i - (len(names) - 1) / 2) * width for k in range(len(kinds))]
            _bars(
                axis,
                at,
                [found[name] for found in kinds.values()],
                width,
                _colour(name),
                label=name,
                scale=100,
            )
        axis.set_xticks(range(len(kinds)), list(kinds), rotation=30)
        axis.set_ylim(0, 100)
        axis.set_title("questions: per cent right")
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


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
