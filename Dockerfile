# syntax=docker/dockerfile:1
# `deid serve`, as nobody, on a read-only file system; its networks come from a volume:
#
#   docker build -t face-deid .
#   docker run --rm -v deid-weights:/weights face-deid weights fetch --world photo --accept-license
#   docker run --rm --read-only --tmpfs /tmp -v deid-weights:/weights:ro -p 127.0.0.1:8000:8000 face-deid
FROM python:3.11-slim AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /src
COPY pyproject.toml uv.lock README.md LICENSE CHANGELOG.md ./
COPY deid ./deid
COPY flows ./flows
COPY data/mini ./data/mini
ENV UV_PROJECT_ENVIRONMENT=/venv UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
RUN uv sync --frozen --no-dev --no-editable --extra serve

FROM python:3.11-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin deid \
    && mkdir /weights /srv/deid && chown deid /weights
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH DEID_WEIGHTS_STORE=/weights HOME=/tmp PYTHONDONTWRITEBYTECODE=1 \
    MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=1
USER 10001
WORKDIR /srv/deid
EXPOSE 8000
HEALTHCHECK --interval=30s --start-period=2m \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=5)"]
# The container's own network is behind the port that `docker run -p` opens; compose.yaml asks for tokens.
ENTRYPOINT ["deid"]
CMD ["serve", "--host", "0.0.0.0", "--open"]
