# copd on CPUs, in the locked versions. Build: docker build -t copd .
# Run: docker run --rm -v "$PWD":/work copd train demo --out runs/demo
FROM python:3.11-slim

WORKDIR /opt/copd
COPY requirements.lock pyproject.toml README.pypi.md LICENSE ./
# As `make demo TORCH_INDEX=...` does it: torch for CPUs, and none of the libraries that only other builds need.
RUN grep -Ev '^(cuda|nvidia|triton)' requirements.lock > cpu.lock \
 && pip install --no-cache-dir --no-deps --index-url https://download.pytorch.org/whl/cpu \
      $(grep -E '^(torch|torchvision)==' requirements.lock) \
 && pip install --no-cache-dir -r cpu.lock
COPY examples examples
COPY copd copd
RUN pip install --no-cache-dir --no-deps .

WORKDIR /work
ENTRYPOINT ["copd"]
