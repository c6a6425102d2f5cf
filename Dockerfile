# Lucid LLM in a container: no model inside, not root, runs with a read-only root file system.
#
#   docker build --tag lucid-llm .
#   docker build --tag lucid-llm:cuda --build-arg CUDA_ARCH=90 \
#     --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 --build-arg BUILD_BASE=nvidia/cuda:12.8.1-devel-ubuntu24.04 .
#   docker build --tag lucid-llm:vulkan --build-arg VULKAN=1 --build-arg BASE=debian:13.1-slim .
#
# To pin a base by content as well, append its digest to BASE: debian:12.12-slim@sha256:...
ARG BASE=debian:12.12-slim
ARG BUILD_BASE=${BASE}

# ------------------------------------------------------------------------------------------------------------- build
FROM ${BUILD_BASE} AS build

# The CPU to build for; empty: x86-64-v3 (AVX2, 2013 and later) on x86-64, armv8.2-a+dotprod on ARM.
ARG MARCH=""
# GPU architectures, e.g. 90 or "80;90"; set, it builds for CUDA.
ARG CUDA_ARCH=""
# Anything: builds for Vulkan (needs Debian 13 or newer).
ARG VULKAN=""

# Versions of Debian packages are those of the base image's release; older ones leave the mirrors, so pins would break.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates cmake g++ ninja-build python3 python3-dev python3-venv \
        ${VULKAN:+glslc libvulkan-dev spirv-headers} \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY build_llama.sh ./
COPY vendor/llama.cpp vendor/llama.cpp
RUN if [ -z "$MARCH" ]; then \
        case $(uname -m) in x86_64) MARCH=x86-64-v3 ;; aarch64) MARCH=armv8.2-a+dotprod ;; *) MARCH=native ;; esac; \
    fi \
    && set -- --march "$MARCH" --rpc \
    && if [ -n "$CUDA_ARCH" ]; then set -- "$@" --cuda --cuda-arch "$CUDA_ARCH"; fi \
    && if [ -n "$VULKAN" ]; then set -- "$@" --vulkan; fi \
    && prefix=$(./build_llama.sh "$@") \
    && cp -a "$prefix" /opt/llama

COPY deploy/build.lock deploy/run.lock ./
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --require-hashes --requirement build.lock --requirement run.lock

COPY pyproject.toml setup.py MANIFEST.in README.md ./
COPY llama_native llama_native
COPY engine engine
COPY knowledge knowledge
COPY server server
RUN LLAMA_PREFIX=/opt/llama /opt/venv/bin/pip install --no-cache-dir --no-build-isolation --no-deps . \
    && /opt/venv/bin/pip check \
    && /opt/venv/bin/pip uninstall --yes --quiet setuptools pip

# --------------------------------------------------------------------------------------------------------------- run
FROM ${BASE} AS run

ARG VULKAN=""

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates libgomp1 libstdc++6 python3 \
        ${VULKAN:+libvulkan1 mesa-vulkan-drivers} \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 lucid \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /state --shell /usr/sbin/nologin lucid \
    && mkdir --mode=0755 /model /data \
    && install --directory --owner=lucid --group=lucid --mode=0750 /cache /state

COPY --from=build /opt/llama/lib /opt/llama/lib
# Only ggml-rpc-server, for the other machines of MODEL_RPC: --entrypoint /opt/llama/bin/ggml-rpc-server
COPY --from=build /opt/llama/bin /opt/llama/bin
COPY --from=build /opt/venv /opt/venv

LABEL org.opencontainers.image.title="Lucid LLM" \
      org.opencontainers.image.description="A local LLM inference service you can see inside" \
      org.opencontainers.image.version="0.1.0"

# Calibration is remembered in /cache, the knowledge base in /state; models and documents are mounted read-only.
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/cache \
    XDG_DATA_HOME=/state \
    MODEL_PATH=/model/model.gguf \
    EMBEDDING_MODEL=/model/embed.gguf \
    DATA_PATH=/data \
    HTTP_ADDRESS=0.0.0.0:8080 \
    PROMETHEUS_HTTP_ADDRESS=0.0.0.0:8081

WORKDIR /
VOLUME ["/cache", "/state"]
EXPOSE 8080 8081
USER 10001:10001

HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["python", "-m", "server.healthcheck"]

ENTRYPOINT ["python", "-m", "server"]
