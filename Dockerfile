# The manyeyes service, with the recipes of examples/ until others are mounted:
#
#   docker build -t manyeyes .
#   docker run -p 8000:8000 -e MANYEYES_API_KEYS=<a long key> -v recipes:/srv/manyeyes/examples manyeyes
#
# docs/deploy.md has more: compose, Kubernetes, TLS.
#
# pip takes torch from where it is told to. For the CPU build, or for a mirror, pass its own variables:
# docker build --build-arg PIP_FIND_LINKS=… or --build-arg PIP_EXTRA_INDEX_URL=…

FROM python:3.11-slim-bookworm AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ENV MANYEYES_VENV=/opt/manyeyes PIP_NO_CACHE_DIR=1
WORKDIR /srv/manyeyes
COPY . .
# With a store in PostgreSQL, and traces for a collector, where they are configured.
RUN scripts/setup all,postgres,otel

FROM python:3.11-slim-bookworm
COPY --from=build /opt/manyeyes /opt/manyeyes
COPY --from=build /srv/manyeyes /srv/manyeyes
# The cache, and the store where no PostgreSQL is named: mount a volume here to keep them. Nothing else is written but /tmp.
RUN install -d -o 10001 -g 10001 /var/lib/manyeyes
ENV PATH=/opt/manyeyes/bin:$PATH MANYEYES_HOME=/var/lib/manyeyes MANYEYES_RECIPES_DIR=/srv/manyeyes/examples \
    HOME=/var/lib/manyeyes PYTHONUNBUFFERED=1
WORKDIR /var/lib/manyeyes
USER 10001:10001
EXPOSE 8000
# It then finishes what it accepted, for MANYEYES_DRAIN_TIMEOUT_S at most: let docker stop wait longer than that.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4).read()"]
CMD ["manyeyes", "serve", "--host", "0.0.0.0", "--port", "8000"]
