"""How tokens are chosen: the fields that the native route and /v1 share, with their bounds."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.engine.interface import SamplingParams
from service.errors import bad_request
from service.settings import Settings

StopString = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MAX_LOGPROBS = 20


class SamplingFields(BaseModel):
    """Temperature, nucleus, penalties and seed; each is off by default, so that answers are greedy."""

    model_config = ConfigDict(extra="forbid")

    temperature: float = Field(
        0.0,
        ge=0,
        le=5,
        allow_inf_nan=False,
        description="0 takes the likeliest token each time; more is more varied.",
        examples=[0.7],
    )
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Samples from the likeliest tokens that together have this probability.",
        examples=[0.9],
    )
    top_k: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Samples from this many likeliest tokens; 0: from all.",
        examples=[40],
    )
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="The same seed and question give the same sampled answer.",
        examples=[1],
    )
    repetition_penalty: float = Field(
        1.0,
        gt=0,
        le=10,
        description="More than 1 makes tokens less likely that question or answer already have.",
        examples=[1.1],
    )
    presence_penalty: float = Field(
        0.0,
        ge=-2,
        le=2,
        allow_inf_nan=False,
        description="More than 0 makes tokens less likely that the answer already has.",
        examples=[0.5],
    )
    frequency_penalty: float = Field(
        0.0,
        ge=-2,
        le=2,
        allow_inf_nan=False,
        description="The same, once for each time that the answer has the token.",
        examples=[0.5],
    )
    ignore_eos: bool = Field(
        False, description="Go on after the end of the answer, to the most tokens asked for; for load tests."
    )

    def params(
        self, settings: Settings, new_tokens: tuple[str, int | None], stop: list[str], logprobs: int | None
    ) -> SamplingParams:
        """What the engine takes.

        Args:
            new_tokens: the field that limits the answer, and its value.

        Raises:
            ApiError: 400, more tokens than the operator allows.
        """
        field, limit = new_tokens
        if limit is not None and limit > settings.max_new_tokens:
            raise bad_request(
                f"The field {field!r} may be at most {settings.max_new_tokens}, not {limit}.", param=field
            )
        return SamplingParams(
            limit or min(settings.default_new_tokens, settings.max_new_tokens),
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            stop=tuple(stop),
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logprobs=logprobs,
            ignore_eos=self.ignore_eos,
        )
