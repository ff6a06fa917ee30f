# The project's images, each a target:
#
#     core       the core and the swm command
#     ssh-gate   the gate of hosts that are reached by SSH
#     azure-gate the gate of machines that are made in Azure
#     skyport    all of it, where the core starts its gates itself (the last, so the default)
#
# `make image` builds them; docs/docker.md tells how they are run.

# Debian with Python 3.11 or newer. Settings that a network needs (certificates, an index of packages)
# belong into an image of yours, which is named here.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
# pip stays here: it puts what it installs into environments that have none.
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/skyport
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_REQUIRE_VIRTUALENV=1
WORKDIR /src
COPY requirements-runtime.lock requirements-ssh.lock requirements-azure.lock requirements-wheel.lock ./
RUN /opt/build/bin/pip install -q --require-hashes -r requirements-wheel.lock \
    && /opt/build/bin/pip --python /opt/skyport/bin/python install -q --require-hashes -r requirements-runtime.lock
COPY . .
RUN /opt/build/bin/pip wheel -q --no-deps --no-build-isolation --wheel-dir /dist .

FROM build AS with-core
RUN /opt/build/bin/pip --python /opt/skyport/bin/python install -q --no-deps --no-index /dist/*.whl

# Apart from the core's, which has no library of SSH.
FROM build AS with-ssh
RUN /opt/build/bin/pip --python /opt/skyport/bin/python install -q --require-hashes -r requirements-ssh.lock \
    && /opt/build/bin/pip --python /opt/skyport/bin/python install -q --no-deps --no-index /dist/*.whl

# Apart from the others: the libraries of Azure are larger than all the rest.
FROM build AS with-azure
RUN /opt/build/bin/pip --python /opt/skyport/bin/python install -q --require-hashes -r requirements-azure.lock \
    && /opt/build/bin/pip --python /opt/skyport/bin/python install -q --no-deps --no-index /dist/*.whl

FROM ${BASE} AS base
RUN groupadd --system --gid 10001 swm \
    && useradd --system --uid 10001 --gid swm --create-home --shell /bin/sh swm \
    && install -d -o swm -g swm -m 0700 /var/lib/swm
ENV PATH=/opt/skyport/bin:$PATH \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/swm
VOLUME /var/lib/swm
# By number, so that it is known not to be root without a look into the image.
USER 10001:10001
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.vendor="The Sky Port authors" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM base AS ssh-gate
LABEL org.opencontainers.image.title="Sky Port SSH gate" \
      org.opencontainers.image.description="Runs jobs of a Sky Port core on hosts that are reached by SSH"
COPY --from=with-ssh /opt/skyport /opt/skyport
EXPOSE 7718
# Where it listens and who may call has to be said; none but the core may ask how it is, and that does.
CMD ["swm-ssh-gate", "--help"]

FROM base AS azure-gate
LABEL org.opencontainers.image.title="Sky Port Azure gate" \
      org.opencontainers.image.description="Runs jobs of a Sky Port core on machines that it makes in Azure"
COPY --from=with-azure /opt/skyport /opt/skyport
EXPOSE 7718
CMD ["swm-azure-gate", "--help"]

FROM base AS with-home
ENV SWM_HOME=/var/lib/swm
EXPOSE 7717
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["swm", "status", "--json"]
CMD ["swm-core", "serve"]

FROM with-home AS core
LABEL org.opencontainers.image.title="Sky Port core" \
      org.opencontainers.image.description="Owns jobs and their files, and talks to gates; with the swm command"
COPY --from=with-core /opt/skyport /opt/skyport

FROM with-home AS skyport
LABEL org.opencontainers.image.title="Sky Port" \
      org.opencontainers.image.description="The core, the swm command, and the gate of SSH, which the core starts itself"
COPY --from=with-ssh /opt/skyport /opt/skyport
