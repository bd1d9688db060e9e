"""Opening what `prepare` wrote."""

from __future__ import annotations

import json
from pathlib import Path

from shared.config import VisionConfig, load_preset


def check_images(folder: Path, vision: VisionConfig) -> None:
    """The images in `folder` must have been fitted as the model's vision tower takes them.

    Raises:
        ValueError: `folder` was prepared for another image size or another way of fitting.
    """
    settings = json.loads((folder / "prepare.json").read_text("utf-8"))
    prepared = settings.get("vision") or load_preset(settings["preset"]).vision.model_dump()
    for name in ("image_size", "fit"):
        if prepared[name] != (wanted := getattr(vision, name)):
            raise ValueError(
                f"{folder} was prepared for another vision tower: {name} is {prepared[name]} there and {wanted} "
                "in the model. Run `python -m trainer prepare` with the model's --preset and another --out."
            )
