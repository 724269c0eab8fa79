# copd in the locked versions. Build, for CPUs:  docker build -t copd .
# for CUDA:  docker build -t copd --build-arg TORCH_INDEX= .
# Run: docker run --rm -v "$PWD":/work copd train demo --out runs/demo
FROM python:3.11-slim

# Where torch for CPUs is taken from. Left empty, torch and what it needs of CUDA come from PyPI with the rest.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

WORKDIR /opt/copd
COPY requirements.lock pyproject.toml README.pypi.md LICENSE ./
RUN if [ -n "$TORCH_INDEX" ]; then \
      pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" \
        $(grep -E '^(torch|torchvision)==' requirements.lock) \
      && sed -i -E '/^(cuda|nvidia|triton)/d' requirements.lock; \
    fi \
 && pip install --no-cache-dir -r requirements.lock
COPY examples examples
COPY copd copd
RUN pip install --no-cache-dir --no-deps .

WORKDIR /work
ENTRYPOINT ["copd"]
