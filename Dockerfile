# Two images:
#   docker build --target gateway -t fanin/gateway .
#   docker build --target pusher  -t fanin/pusher  .
# No BuildKit feature is used, so that engine 20.10 with docker-compose 1.29
# builds it too.

# The script that draws the charts of the gateway's pages.
FROM node:22-bookworm-slim AS page
WORKDIR /src/internal/dashboard/page
COPY internal/dashboard/page ./
RUN npm ci --ignore-scripts && npm run build

FROM golang:1.26.8-bookworm AS source
WORKDIR /src
# A module proxy of one's own, where there is one.
ARG GOPROXY
ENV GOFLAGS="-trimpath -buildvcs=false -mod=readonly" GOTOOLCHAIN=local
COPY go.mod go.sum ./
RUN go mod download
COPY cmd ./cmd
COPY internal ./internal

FROM source AS build-gateway
ARG VERSION=dev
ARG REVISION=unknown
COPY --from=page /src/internal/dashboard/assets/built ./internal/dashboard/assets/built
RUN CGO_ENABLED=0 go build -o /out/gateway -ldflags "-s -w -buildid= \
    -X github.com/prometheus/common/version.Version=${VERSION} \
    -X github.com/prometheus/common/version.Revision=${REVISION}" ./cmd/gateway
# A volume that is mounted here takes the mode over, so that any user can have
# a history in it.
RUN install -d -m 1777 /out/root/var/lib/fanin && mv /out/gateway /out/root/

FROM scratch AS gateway
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="fanin gateway" \
      org.opencontainers.image.description="Takes what the nodes push, checks it against the active deployments, keeps it until it is collected" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build-gateway /out/root/ /
USER 65532:65532
EXPOSE 9370
ENTRYPOINT ["/gateway"]
CMD ["--web.listen-address=:9370"]
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s --retries=3 CMD ["/gateway", "healthcheck"]

# libvirt is loaded at run time, where it is installed: a C compiler is needed
# to build this, libvirt's headers are not.
FROM source AS build-pusher
ARG VERSION=dev
ARG REVISION=unknown
RUN CGO_ENABLED=1 go build -tags libvirt_dlopen -o /out/pusher -ldflags "-s -w -buildid= \
    -X github.com/prometheus/common/version.Version=${VERSION} \
    -X github.com/prometheus/common/version.Revision=${REVISION}" ./cmd/pusher

FROM debian:12.12-slim AS pusher
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="fanin pusher" \
      org.opencontainers.image.description="Samples its host and the guests on it and pushes what it saw" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN apt-get update \
    && apt-get install -y --no-install-recommends libvirt0 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
COPY --from=build-pusher /out/pusher /usr/bin/pusher
# A volume that is mounted here takes the mode over, so that any user can have
# a spool in it.
RUN install -d -m 1777 /var/lib/fanin
USER 65532:65532
ENTRYPOINT ["/usr/bin/pusher"]
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["/bin/bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9371 && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q ' 200 ' <&3"]
