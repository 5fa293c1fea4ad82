# Raymill for machines with NVIDIA GPUs: all of the CPU image, and training.
# Build it from the root of the repository; deploy/README.md has the commands. The CUDA libraries come with torch's
# wheels, so the base is the CPU image's; the machine brings the driver (CUDA 13: 580 or newer).
#
#   target with-c-compiler    the default. torch.compile needs gcc once in each container: Triton builds a module in C
#   target runtime            no compiler: torch.compile fails at its first call, and training continues uncompiled

# The base is pinned by digest, which has no default: look up today's and record it with your release.
#   docker buildx imagetools inspect python:3.11-slim-bookworm --format '{{.Manifest.Digest}}'
ARG PYTHON_DIGEST
FROM docker.io/library/python:3.11-slim-bookworm@${PYTHON_DIGEST} AS base

FROM base AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY deploy/lock/build.txt deploy/lock/cuda.txt /lock/
# The tools that build wheels stay in this stage.
RUN python -m venv /build && /build/bin/pip install --require-hashes -r /lock/build.txt
# Dependencies before the source: a change of the source leaves this layer as it is.
# deepspeed has no wheel; nothing of it is compiled (DS_BUILD_OPS=0), here or at run time.
RUN DS_BUILD_OPS=0 /build/bin/pip wheel --no-deps --no-build-isolation --require-hashes --wheel-dir /wheels -r /lock/cuda.txt \
    && pip install --no-deps --no-index /wheels/*.whl
COPY pyproject.toml README.md LICENSE /source/
COPY raymill /source/raymill
COPY cluster /source/cluster
COPY pipelines /source/pipelines
COPY training /source/training
RUN /build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels /source \
    && pip install --no-deps --no-index /wheels/raymill-*.whl
# Kernels are compiled for one kind of CPU, not for the machine that builds. Older CPUs compile them at their first use.
ARG CPU_TARGET=x86-64-v3
RUN raymill warm --into /opt/raymill/kernels --cpu "${CPU_TARGET}"
COPY deploy/smoke.py /opt/raymill/smoke.py

FROM base AS runtime
ARG CPU_TARGET=x86-64-v3
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="raymill" \
      org.opencontainers.image.description="Raymill on Ray 2.60, for machines with NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      raymill.io/cpu-target="${CPU_TARGET}"
RUN groupadd --gid 1000 raymill && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /tmp raymill
COPY --from=build /usr/local /usr/local
COPY --from=build /opt/raymill /opt/raymill
# Everything that is written lies below /tmp, so the root file system can be read-only. USER: for user ids without a name.
ENV HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    USER=raymill \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    RAYMILL_KERNELS=/opt/raymill/kernels \
    NUMBA_CPU_NAME=${CPU_TARGET} \
    NUMBA_CPU_FEATURES="" \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /opt/raymill
USER 1000:1000
CMD ["raymill", "--help"]

FROM runtime AS with-c-compiler
USER 0:0
# The version of gcc is the one of the pinned base's Debian release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
USER 1000:1000
