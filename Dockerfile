# syntax=docker/dockerfile:1
# Two variants; TORCH_INDEX is the index of PyTorch's wheels for CPUs, which PyTorch's installation page names:
#   docker build -t adabldm:cuda .
#   docker build --build-arg TORCH_INDEX=… -t adabldm:cpu .
# The first has the wheels of the Python Package Index, which bring CUDA's libraries; it runs with `docker run --gpus all`.
FROM python:3.11-slim

ARG TORCH_INDEX=
ARG VERSION=0.2.0.dev0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1

WORKDIR /opt/adabldm
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' constraints.txt)"
COPY src src
RUN SETUPTOOLS_SCM_PRETEND_VERSION="$VERSION" pip install -c constraints.txt '.[evaluate,studio]'

# No privileges in the container; /data is where data sets, runs and results are mounted.
RUN useradd --create-home adabldm && mkdir /data && chown adabldm /data
USER adabldm
WORKDIR /data
EXPOSE 7860
ENTRYPOINT ["adabldm"]
CMD ["--help"]
