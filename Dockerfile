# The manyeyes service, with the recipes of examples/ until others are mounted:
#
#   docker build -t manyeyes .
#   docker run -p 8000:8000 -e MANYEYES_API_KEYS=<a long key> -v recipes:/srv/manyeyes/examples manyeyes
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
RUN scripts/setup all

FROM python:3.11-slim-bookworm
COPY --from=build /opt/manyeyes /opt/manyeyes
COPY --from=build /srv/manyeyes /srv/manyeyes
# The cache: mount a volume here to keep it.
RUN install -d -o 10001 -g 10001 /var/lib/manyeyes
ENV PATH=/opt/manyeyes/bin:$PATH MANYEYES_HOME=/var/lib/manyeyes MANYEYES_RECIPES_DIR=/srv/manyeyes/examples \
    HOME=/var/lib/manyeyes PYTHONUNBUFFERED=1
WORKDIR /var/lib/manyeyes
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4).read()"]
CMD ["manyeyes", "serve", "--host", "0.0.0.0", "--port", "8000"]
