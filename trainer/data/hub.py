"""Datasets of the Hugging Face hub: files of one commit, downloaded once, each resumed where its connection broke.

huggingface_hub does the work: its cache, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` hold here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

ARCHIVES = {".zip", ".tar"}
# What LLaVA's stages read of each repository (Liu et al. 2023); the photographs of Instruct-150K are COCO's.
KNOWN = {
    "liuhaotian/LLaVA-CC3M-Pretrain-595K": ["chat.json", "images.zip"],
    "liuhaotian/LLaVA-Pretrain": ["blip_laion_cc_sbu_558k.json", "images.zip"],
    "liuhaotian/LLaVA-Instruct-150K": ["llava_instruct_150k.json"],
}


@dataclass(frozen=True)
class HubFiles:
    """Local copies of a dataset's files, and the commit they are of."""

    annotations: list[Path]
    images: list[Path]
    commit: str


def fetch_dataset(dataset: str, files: list[str], revision: str, *, offline: bool = False) -> HubFiles:
    """Download what is missing of `files` (those known of the dataset, where none are named).

    A branch or tag is resolved once, with the first file, and all others are of the same commit.

    Raises:
        ValueError: the files of the dataset are not known, or cannot be had; says what to do.
    """
    names = files or KNOWN.get(dataset)
    if not names:
        raise ValueError(
            f"which files of {dataset}? Name them with --dataset-files; known without: {', '.join(KNOWN)}"
        )
    annotations, images, commit = [], [], ""
    for name in names:
        path = _download(dataset, name, commit or revision, offline)
        commit = commit or _commit(path)
        (images if path.suffix in ARCHIVES else annotations).append(path)
    return HubFiles(annotations, images, commit)


def _download(dataset: str, name: str, revision: str, offline: bool) -> Path:
    where = f"{name} of {dataset} at {revision}"
    try:
        path = hf_hub_download(
            dataset, name, repo_type="dataset", revision=revision, local_files_only=offline
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ValueError(
            f"{where} is not in the cache and the hub cannot be reached. Run once with a connection "
            "(files that are whole are kept), or give local files with --annotations and --images."
        ) from error
    except Exception as error:  # of the HTTP library underneath, whichever it is, for one
        raise ValueError(
            f"{where} cannot be downloaded: {error}. Run again: files that are whole are kept."
        ) from error
    return Path(path)


def _commit(path: Path) -> str:
    """The cache keeps a file as `.../snapshots/COMMIT/name`."""
    parts = path.parts
    return parts[len(parts) - parts[::-1].index("snapshots")]
