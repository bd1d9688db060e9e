"""Self-critical training: the model learns from how good its own answers are (Rennie et al. 2017).

To a question it answers several times by sampling; an answer is rewarded by its CIDEr against people's answers,
less the mean of the other answers to the same question (Luo 2020), and its tokens become likelier or less likely
by that much: the policy gradient of the mean CIDEr of answers sampled at the configured temperature. The token
that ends an answer counts as a word, or answers would learn to break off. Other kinds of records in the same
steps are learned by cross-entropy as ever.
"""

from __future__ import annotations

import copy
import re
from functools import lru_cache

from shared.lora import merged_adapters
from shared.model import MultimodalModel
from shared.prompt import IGNORE_INDEX, EncodedPrompt
from trainer.cider import Cider, Words
from trainer.config import TrainConfig
from trainer.data.loader import PackLoader
from trainer.data.packing import Pack, Rollout, share_rows
from trainer.data.steps import Batch, BatchMaker, Draft
from trainer.sampling import sample_answers

_WORD = re.compile(r"\w+(?:['-]\w+)*")
_END = "."  # no word holds it


class SelfCritic:
    """Makes batches of drafts: samples the answers they lack and weighs each by its advantage.

    Attributes:
        reward: mean CIDEr, 0 to 10, of the answers sampled for the latest step.

    Raises:
        ValueError: `config.self_critical` names kinds that cannot be sampled.
    """

    def __init__(self, model: MultimodalModel, maker: BatchMaker, train: PackLoader, config: TrainConfig):
        self.reward = 0.0
        self._model, self._maker, self._config = model, maker, config
        self._words = lru_cache(maxsize=50_000)(self._split)
        self._cider = Cider(
            [self._words(tuple(answer)) for answer in answers] for answers in train.references()
        )

    def batches(self, drafts: list[Batch | Draft]) -> list[Batch]:
        """A step's batches, each draft finished with answers sampled now."""
        rewards: list[float] = []
        batches = [self._finish(draft, rewards) if isinstance(draft, Draft) else draft for draft in drafts]
        if rewards:
            self.reward = sum(rewards) / len(rewards)
        return batches

    def _finish(self, draft: Draft, rewards: list[float]) -> Batch:
        packs = [copy.deepcopy(pack) for row in draft.rows for pack in row]
        asked = [(pack, rollout) for pack in packs for rollout in pack.rollouts]
        sampled = self._sample(asked, draft.seed)
        for (pack, rollout), answers in zip(asked, sampled, strict=True):
            scores = [self._score(answer, rollout) for answer in answers]
            rewards += scores
            mean = sum(scores) / len(scores)
            for answer, score in zip(answers, scores, strict=True):
                advantage = (score - mean) * len(scores) / (len(scores) - 1)  # less the mean of the others
                pack.add(
                    EncodedPrompt(
                        rollout.prompt + answer, [IGNORE_INDEX] * len(rollout.prompt) + answer, num_images=1
                    ),
                    rollout.image,
                    weight=self._config.self_critical_weight * advantage,
                    temperature=self._config.self_critical_temperature,
                )
        batch = self._maker.make(share_rows(packs))
        batch.weight = draft.weight
        return batch

    def _sample(self, asked: list[tuple[Pack, Rollout]], seed: list[int]) -> list[list[list[int]]]:
        model = self._model
        training = model.training
        model.eval()
        prompts = [
            (rollout.prompt, self._maker.features([rollout.image], [int(pack.mirrored)]))
            for pack, rollout in asked
        ]
        with merged_adapters(model.language):
            answers = sample_answers(
                model, prompts, self._config.self_critical_samples,
                max_new_tokens=self._config.self_critical_tokens,
                temperature=self._config.self_critical_temperature, seed=seed,
            )  # fmt: skip
        model.train(training)
        return answers

    def _score(self, answer: list[int], rollout: Rollout) -> float:
        references = [self._words(tuple(reference)) for reference in rollout.references]
        return self._cider.score(self._split(tuple(answer)), references)

    def _split(self, answer: tuple[int, ...]) -> Words:
        """The words of an answer, lower case, and a mark where it ended by itself."""
        text = self._model.tokenizer.decode(answer, skip_special_tokens=True)
        ended = answer[-1:] == (self._model.prompt.end_token_id,)
        return (*_WORD.findall(text.lower()), *([_END] if ended else []))
