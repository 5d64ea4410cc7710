//! The settings of connections, and the sending of their packets.

use bytes::Bytes;
use peer_common::cli::Tuning;
use peer_common::socket::{BURST_BYTES_MAX, BURST_PACKETS_MAX, Socket};
use quiche::{BufFactory, Config, CongestionControlAlgorithm, Error};
use std::io::IoSlice;
use std::net::SocketAddr;

/// The client's first unidirectional stream, which carries the bytes.
pub(crate) const DATA_STREAM: u64 = 2;
/// The server's first unidirectional stream, which carries its count.
pub(crate) const COUNT_STREAM: u64 = 3;

/// Bursts sent before acknowledgments are looked for again.
const BURSTS_MAX: usize = 4;
const IDLE_TIMEOUT_MS: u64 = 30_000;

pub(crate) type Connection = quiche::Connection<Shared>;

/// Stream data in shared buffers: it is not copied before it is encrypted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared;

impl BufFactory for Shared {
    type Buf = Bytes;
    type DgramBuf = Vec<u8>;

    fn buf_from_slice(bytes: &[u8]) -> Bytes {
        Bytes::copy_from_slice(bytes)
    }

    fn dgram_buf_from_slice(bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }
}

pub(crate) fn config(tuning: Tuning) -> anyhow::Result<Config> {
    let mut config = Config::new(quiche::PROTOCOL_VERSION)?;
    config.set_application_protos(&[peer_common::ALPN])?;
    config.set_curves_list(peer_common::KEY_EXCHANGE)?;
    config.grease(false);
    config.set_max_idle_timeout(IDLE_TIMEOUT_MS);
    config.set_max_recv_udp_payload_size(tuning.mtu.into());
    config.set_max_send_udp_payload_size(tuning.mtu.into());
    config.set_initial_max_data(tuning.connection_window());
    config.set_max_connection_window(tuning.connection_window());
    config.set_initial_max_stream_data_uni(tuning.stream_window());
    config.set_max_stream_window(tuning.stream_window());
    config.set_initial_max_streams_uni(16);
    config.set_cc_algorithm(CongestionControlAlgorithm::CUBIC);
    config.set_initial_congestion_window_packets(tuning.initial_window_packets());
    config.enable_pacing(false);
    Ok(config)
}

pub(crate) fn connection_id() -> [u8; quiche::MAX_CONN_ID_LEN] {
    rand::random()
}

/// One burst of packets that leave with one call.
pub(crate) struct Burst(Vec<u8>);

impl Default for Burst {
    fn default() -> Self {
        Self(vec![0; BURST_BYTES_MAX])
    }
}

impl Burst {
    /// Sends the connection's packets, up to a few bursts. Returns whether there may be more.
    pub(crate) fn send(&mut self, connection: &mut Connection, socket: &mut Socket) -> anyhow::Result<bool> {
        for _ in 0..BURSTS_MAX {
            let Some((to, filled, segment)) = self.fill(connection)? else { return Ok(false) };
            socket.send(to, &[IoSlice::new(&self.0[..filled])], segment)?;
        }
        Ok(true)
    }

    /// The destination of the burst, its bytes, and the bytes of one packet; none if there is nothing to send.
    fn fill(&mut self, connection: &mut Connection) -> anyhow::Result<Option<(SocketAddr, usize, usize)>> {
        let full = connection.max_send_udp_payload_size();
        let (mut filled, mut segment, mut to) = (0, 0, None);
        for _ in 0..BURST_PACKETS_MAX {
            let Some(room) = self.0.get_mut(filled..filled + full) else { break };
            match connection.send(room) {
                Ok((len, info)) => {
                    filled += len;
                    segment = segment.max(len);
                    to = Some(info.to);
                    // Only the last of a burst may be shorter than the others.
                    if len < full {
                        break;
                    }
                }
                Err(Error::Done) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(to.map(|to| (to, filled, segment)))
    }
}
