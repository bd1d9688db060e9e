"""What a preparation kept and dropped: counts that add up, reasons with their first examples."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

EXAMPLES = 5


@dataclass
class Report:
    """read = kept + dropped."""

    read: int = 0
    kept: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    parts: dict[str, int] = field(default_factory=dict)
    """Records of each split, and images."""

    def drop(self, why: str, what: str) -> None:
        """Count a record. `why` is a reason, or a reason and, after a colon or full stop, its details."""
        reason, detail = split_reason(why)
        self.dropped[reason] += 1
        if len(self.examples[reason]) < EXAMPLES:
            self.examples[reason].append(f"{what}: {detail}"[:300] if detail else what[:300])

    def reasons(self) -> str:
        """The three most frequent reasons, for an error message."""
        return "; ".join(
            f"{reason} ({count}), e.g. {self.examples[reason][0]}"
            for reason, count in self.dropped.most_common(3)
        )

    def to_json(self) -> dict:
        """As `report.json` has it."""
        return {
            "read": self.read,
            "kept": sum(self.kept.values()),
            "kept_by_kind": dict(sorted(self.kept.items())),
            "dropped": sum(self.dropped.values()),
            "dropped_by_reason": {
                reason: {"count": count, "first": self.examples[reason]}
                for reason, count in self.dropped.most_common()
            },
            **self.parts,
        }

    @classmethod
    def from_json(cls, raw: dict) -> Report:
        """The report that `to_json` wrote."""
        dropped = raw["dropped_by_reason"]
        return cls(
            raw["read"],
            Counter(raw["kept_by_kind"]),
            Counter({reason: entry["count"] for reason, entry in dropped.items()}),
            defaultdict(list, {reason: entry["first"] for reason, entry in dropped.items()}),
            {name: raw[name] for name in ("train", "val", "images") if name in raw},
        )


def split_reason(why: str) -> tuple[str, str]:
    """`The image is too large: 9 x 9 pixels` to its reason and its detail."""
    ends = [end for end in (why.find(": "), why.find(". ")) if end >= 0]
    if not ends:
        return why.removesuffix("."), ""
    return why[: min(ends)], why[min(ends) + 2 :]
