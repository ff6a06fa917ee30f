# The core and the swm command. Gates have images of their own kind: they need what their site needs.
#
#     docker build -t skyport .
#     docker run -v skyport:/var/lib/swm skyport             # the core
#     docker run -v skyport:/var/lib/swm skyport swm --help  # the command line

FROM python:3.11-slim AS build
WORKDIR /src
# What the image runs with, and apart from it what the wheel is built with.
COPY requirements-runtime.lock requirements.lock ./
RUN python -m venv /opt/skyport \
    && /opt/skyport/bin/pip install --no-cache-dir --require-hashes -r requirements-runtime.lock \
    && python -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY . .
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/skyport/bin/pip install --no-deps --no-index /dist/*.whl

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/swm --create-home swm \
    && chmod 0700 /var/lib/swm
COPY --from=build /opt/skyport /opt/skyport
ENV PATH=/opt/skyport/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SWM_HOME=/var/lib/swm
USER swm
WORKDIR /var/lib/swm
VOLUME /var/lib/swm
CMD ["swm-core"]
