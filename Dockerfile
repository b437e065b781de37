# syntax=docker/dockerfile:1
# The image contains a static binary and the CA certificates of public authorities, and nothing else.
#
#   docker build --tag ecs-retirement-controller:0.1.0 .
#   docker buildx build --platform linux/amd64,linux/arm64 --tag REGISTRY/ecs-retirement-controller:0.1.0 --push .

# Cross-compiles on the build platform, because emulation would take hours.
FROM --platform=$BUILDPLATFORM rust:1.95-bookworm AS build
ARG BUILDARCH
ARG TARGETARCH
RUN case $TARGETARCH in \
      $BUILDARCH) other= ;; \
      amd64) other="gcc-x86-64-linux-gnu libc6-dev-amd64-cross" ;; \
      arm64) other="gcc-aarch64-linux-gnu libc6-dev-arm64-cross" ;; \
    esac \
 && apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates $other \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target,id=target-$TARGETARCH \
    hack/rootfs.sh "$TARGETARCH" /rootfs

FROM scratch
COPY --from=build /rootfs /
# The user and group ID that the chart sets. They are numeric because the image has no /etc/passwd.
USER 65532:65532
ENTRYPOINT ["/ecs-retirement-controller"]
LABEL org.opencontainers.image.title="ecs-retirement-controller" \
      org.opencontainers.image.description="Retires Amazon ECS task definition revisions that are declared in Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0"
