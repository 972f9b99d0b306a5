# The worker's image: built with the toolchain of the README, run without a shell.
#
# Why distroless/cc: the binary needs glibc, libgcc and CA certificates, and this has those and nothing else.
# Not debian-slim: a shell and a package manager are what an escaped child would look for first. Not static
# musl: the limits in config/default.toml were measured with glibc and its allocator.

FROM rust:1.95-slim-bookworm AS build
ARG REVISION=unknown
ARG REVISION_DATE=unknown
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    WM_GIT_COMMIT="${REVISION}" WM_GIT_DATE="${REVISION_DATE}" cargo build --locked --profile dist --bin wm-analyzer \
 && cp target/dist/wm-analyzer /usr/local/bin/

FROM gcr.io/distroless/cc-debian12:nonroot
ARG REVISION=unknown
LABEL org.opencontainers.image.title="wm-analyzer" \
      org.opencontainers.image.description="Compares captured versions of web pages, and no page can bring it down" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /usr/local/bin/wm-analyzer /usr/local/bin/wm-analyzer
# Probes and metrics: the container's own network is not the host's, so loopback would be unreachable.
ENV WM__WEB__BIND=0.0.0.0:9464
EXPOSE 9464
USER 65532:65532
# Live means "the runtime answers", never "Redis answers": a Redis that blinks must not restart the fleet.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/wm-analyzer", "health", "--live"]
ENTRYPOINT ["/usr/local/bin/wm-analyzer"]
CMD ["work"]
