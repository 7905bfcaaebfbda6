# The product's image: operator, agent, router and simulated engine behind one entry point. `make image` builds it.
# Everything that pip installs is pinned with hashes by requirements-image.lock and requirements-build.lock.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
WORKDIR /src
COPY requirements-build.lock requirements-image.lock ./
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-build.lock \
 && python3 -m venv /opt/dynamollm \
 && /opt/dynamollm/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
COPY manifests/profiles manifests/profiles
# The wheel is made by the pinned backend. pip goes when it is done: nothing is installed at run time. Tests that packages
# bring along go too; modules stay compiled, since the file system is read-only later.
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation -w /tmp/wheel . \
 && /opt/dynamollm/bin/pip install --no-cache-dir --no-deps /tmp/wheel/*.whl \
 && /opt/dynamollm/bin/pip uninstall -q -y pip setuptools \
 && find /opt/dynamollm -depth -type d -name tests -path '*/site-packages/*' -exec rm -rf {} +

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="dynamollm" \
      org.opencontainers.image.description="Serves large language models at least energy while every request class keeps its latency SLO" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/dynamollm /opt/dynamollm
ENV PATH=/opt/dynamollm/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Of no account on any machine; the agent's DaemonSet overrides it, since locking clocks needs root with CAP_SYS_ADMIN.
USER 65532:65532
ENTRYPOINT ["/opt/dynamollm/bin/dynamollm"]
