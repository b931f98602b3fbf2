# One file, two images:
#   docker build -t metavae .                          CPU
#   docker build -t metavae --build-arg DEVICE=cuda .  GPU (run with --gpus all)
# Every step is one that `make` runs too. The CUDA libraries come from PyPI with torch, so both
# images start from the same Python; DEVICE decides what the models are packed for when it starts.
FROM python:3.11-slim-bookworm

ARG DEVICE=cpu
ENV METAVAE_DEVICE=${DEVICE} \
    METAVAE_HOST=0.0.0.0 \
    METAVAE_STORE=/home/metavae/store \
    MODELS=canonical-wavelet-mnist \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    OMP_WAIT_POLICY=passive

RUN useradd --create-home metavae
WORKDIR /opt/metavae
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY training training
COPY serving serving
COPY model_zoo model_zoo
COPY client client
RUN PIP_CONSTRAINT=/opt/metavae/constraints.txt pip install -e '.[serve]' \
    && metavae-zoo verify

USER metavae
WORKDIR /home/metavae
EXPOSE 8080
# Ready is when every worker has loaded its model: `/ping` says Healthy long before.
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=3 \
    CMD ["metavae-serve", "ready"]
# Tokens are made at each start, in /home/metavae/store/.run/key_file.json.
CMD ["sh", "-c", "exec metavae-serve start --foreground ${MODELS}"]
