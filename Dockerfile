# The gateway in a container: it needs no root, no shell and no privileges. docs/operations.md tells how to run it.
#
#   docker build -t stoq .
#
# compiles these sources with the Rust of BUILD_IMAGE. packaging/Dockerfile.prebuilt takes binaries that were built elsewhere.
# Both images must be of one Debian release: DPDK's libraries are linked by their version.
ARG BASE_IMAGE=debian:bookworm-slim
ARG BUILD_IMAGE=rust:1.95-bookworm

# The base of every runtime image: DPDK's libraries, its drivers of NICs, a user, and the command.
FROM ${BASE_IMAGE} AS base
# DPDK loads drivers when it starts; the executables do not link them. More drivers: apt-cache search librte-net
ARG DRIVERS="librte-net-af-packet23 librte-net-af-xdp23 librte-net-bnxt23 librte-net-e1000-23 librte-net-ena23 librte-net-i40e23 librte-net-iavf23 librte-net-ice23 librte-net-igc23 librte-net-ixgbe23 librte-net-memif23 librte-net-mlx5-23 librte-net-virtio23 librte-net-vmxnet3-23"
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        libcap2-bin librte-ethdev23 librte-mempool-ring23 librte-bus-pci23 librte-bus-vdev23 ${DRIVERS} \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 stoq \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/stoq --shell /usr/sbin/nologin stoq \
    && install -d -o stoq -g stoq -m 0750 /etc/stoq /var/lib/stoq /run/stoq
VOLUME /var/lib/stoq
EXPOSE 4433/udp
# Needs `[admin] listen = "127.0.0.1:9464"`. The check is for /livez: a gateway that waits for its link must not be restarted.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["stoq-gateway", "health", "--url", "http://127.0.0.1:9464/livez"]
ENTRYPOINT ["stoq-gateway"]
CMD ["run", "--config", "/etc/stoq/gateway.toml"]

FROM ${BUILD_IMAGE} AS build
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc libc6-dev libdpdk-dev pkg-config
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bins \
    && install -D --strip --target-directory=/out/bin target/release/stoq target/release/stoq-gateway target/release/stoq-pktgen

FROM base AS runtime
COPY --from=build /out/bin/ /usr/local/bin/
# A user other than root has the container's capabilities only by the file that it starts. As *permitted* capabilities alone they do not
# keep the file from starting where the container lacks them; the gateway makes those that it has effective.
RUN setcap cap_ipc_lock,cap_net_admin,cap_net_raw=p /usr/local/bin/stoq-gateway
USER 10001:10001
