# The service as an image: `make image` (for NVIDIA cards), or VARIANT=cpu (for trials, on the demo checkpoint) or ray (deploy/ray).
# For linux/amd64 and linux/arm64: `docker buildx build --platform linux/amd64,linux/arm64 …`, or `make image PLATFORM=linux/arm64`.
# No weights inside; they are mounted at /models. How to run, rebuild and check it: docker/README.md.
# Kept to what buildah 1.28 reads (no heredocs, no COPY --link), because `make image-check` builds this file with it.
ARG BASE=python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
ARG VARIANT=cuda

# Dependencies before code, so that a change of code rebuilds megabytes. pip stays outside: the service's environment has none.
# The optional secret `pip_conf` is for networks with package mirrors of their own; nothing of it stays in the image.
FROM ${BASE} AS build
ARG VARIANT
# Set by the builder; empty with builders that do not know it.
ARG TARGETARCH
RUN case "${TARGETARCH:-amd64}" in \
    amd64|arm64) ;; \
    *) echo "torch has no wheels for ${TARGETARCH}. Build for linux/amd64 or linux/arm64." >&2; exit 1 ;; \
    esac
# For VARIANT=cpu: PyTorch's index of CPU wheels, whose address its installation page names; empty where pip_conf knows one.
ARG CPU_TORCH_INDEX=
ARG FLASH_ATTN_WHEEL=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv --without-pip /opt/venv
COPY docker/requirements-${VARIANT}.lock requirements.lock
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    if [ "${VARIANT}" = cpu ] && [ -n "${CPU_TORCH_INDEX}" ]; then set -- --extra-index-url "${CPU_TORCH_INDEX}"; fi; \
    python3 -m pip --python /opt/venv/bin/python install --require-hashes "$@" --requirement requirements.lock
# A wheel's address with `#sha256=…`: there are none for this torch from the project itself (docker/README.md).
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    if [ -n "${FLASH_ATTN_WHEEL}" ]; then \
    python3 -m pip --python /opt/venv/bin/python install --no-deps "${FLASH_ATTN_WHEEL:?}"; fi
COPY pyproject.toml README.md LICENSE ./
COPY model model
COPY service service
RUN python3 -m pip --python /opt/venv/bin/python install --no-index --no-deps --no-build-isolation .

# Versions end in *: Debian's mirrors keep the newest security fix alone. Group 0 may write where the user may, so that
# platforms which choose a user id of their own (OpenShift) can run the image.
# The fonts are for documents that are plain texts: they are drawn as pages, in the scripts that most people write.
FROM ${BASE} AS runtime
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini=0.19.0-* \
        fonts-dejavu-core=2.37-* fonts-noto-core=20201225-* fonts-noto-cjk=1:20220127+repack1-* \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && useradd --uid 10001 --gid 0 --no-log-init --no-create-home --home-dir /cache --shell /usr/sbin/nologin ziprerank \
    && mkdir /cache /models \
    && chown 10001:0 /cache \
    && chmod 770 /cache
# Everything that torch, Triton and Hugging Face write goes to the home folder, a volume. USER is for user ids without a name.
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/cache \
    USER=ziprerank \
    TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
    PYTHONUNBUFFERED=1 \
    ZIPRERANK_HOST=0.0.0.0 \
    ZIPRERANK_PORT=8000

# Triton compiles the launcher of each kernel when it runs, against Python's headers, which the base has.
FROM runtime AS runtime-cuda
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc=4:12.2.0-* libc6-dev=2.36-* \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
# A container whose card cannot be used stops at its start, instead of running the model on the CPU. Expandable segments keep
# torch's allocator from splitting memory into pieces that no later batch fits.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTORCH_ALLOC_CONF=expandable_segments:True \
    ZIPRERANK_DEVICE=cuda

# KubeRay asks with wget whether its processes live, and starts them from login shells, whose PATH is Debian's.
FROM runtime-cuda AS runtime-ray
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget=1.21.3-* \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && echo "PATH=/opt/venv/bin:\$PATH" > /etc/profile.d/ziprerank.sh

FROM runtime AS runtime-cpu
ENV ZIPRERANK_MODEL=demo ZIPRERANK_DEVICE=cpu

# A stage of this file, not an image without a tag:
# hadolint ignore=DL3006
FROM runtime-${VARIANT} AS image
COPY --from=build /opt/venv /opt/venv
COPY docker/healthcheck.py /usr/local/lib/ziprerank/healthcheck.py
USER 10001:0
VOLUME ["/cache"]
EXPOSE 8000
STOPSIGNAL SIGTERM
# The start period is the time that 17 GB of weights may take from a slow volume.
HEALTHCHECK --interval=15s --timeout=5s --start-period=900s --retries=4 \
    CMD ["python", "-I", "-S", "/usr/local/lib/ziprerank/healthcheck.py"]
# Without -g: a signal to the whole group would end the raster workers before the drain.
ENTRYPOINT ["tini", "-s", "--", "ziprerank"]
CMD ["serve"]
