//! The settings of connections, and the sending of their packets.

use bytes::Bytes;
use peer_common::cli::Tuning;
use peer_common::socket::{BURST_BYTES_MAX, BURST_PACKETS_MAX, Socket};
use quiche::{BufFactory, Config, CongestionControlAlgorithm, Error};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

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

pub(crate) fn config(tuning: Tuning, bbr2: bool) -> anyhow::Result<Config> {
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
    config.set_cc_algorithm(match bbr2 {
        true => CongestionControlAlgorithm::Bbr2Gcongestion,
        false => CongestionControlAlgorithm::CUBIC,
    });
    config.set_initial_congestion_window_packets(tuning.initial_window_packets());
    config.enable_pacing(bbr2);
    Ok(config)
}

pub(crate) fn connection_id() -> [u8; quiche::MAX_CONN_ID_LEN] {
    rand::random()
}

/// One burst of packets that leave with one call, at the time that pacing gives it.
pub(crate) struct Burst {
    packets: Vec<u8>,
    /// A burst that is filled and whose time has not come.
    held: Option<Filled>,
    paced: bool,
}

#[derive(Clone, Copy)]
struct Filled {
    to: SocketAddr,
    bytes: usize,
    /// The bytes of one packet.
    segment: usize,
    at: Instant,
}

impl Burst {
    /// Bursts of a connection that paces, or of one that sends as much as its window allows.
    pub(crate) fn new(paced: bool) -> Self {
        Self { packets: vec![0; BURST_BYTES_MAX], held: None, paced }
    }

    /// Sends the connection's packets, up to a few bursts. Returns whether there may be more now.
    pub(crate) fn send(&mut self, connection: &mut Connection, socket: &mut Socket) -> anyhow::Result<bool> {
        for _ in 0..BURSTS_MAX {
            if self.held.is_none() {
                self.held = self.fill(connection)?;
            }
            let Some(burst) = self.held else { return Ok(false) };
            if self.paced && burst.at > Instant::now() {
                return Ok(false);
            }
            socket.send(burst.to, &[IoSlice::new(&self.packets[..burst.bytes])], burst.segment)?;
            self.held = None;
        }
        Ok(true)
    }

    /// How long the filled burst still waits; none where none waits.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        self.held.map(|burst| burst.at.saturating_duration_since(Instant::now()))
    }

    /// A burst, as large as pacing allows at once; none if there is nothing to send. Its time is that of its first packet.
    fn fill(&mut self, connection: &mut Connection) -> anyhow::Result<Option<Filled>> {
        let full = connection.max_send_udp_payload_size();
        let most = if self.paced { connection.send_quantum().max(full) } else { BURST_BYTES_MAX };
        let mut burst: Option<Filled> = None;
        for _ in 0..BURST_PACKETS_MAX {
            let filled = burst.map_or(0, |burst| burst.bytes);
            let Some(room) = self.packets.get_mut(filled..filled + full) else { break };
            match connection.send(room) {
                Ok((len, info)) => {
                    let burst =
                        burst.get_or_insert(Filled { to: info.to, bytes: 0, segment: 0, at: info.at });
                    burst.bytes += len;
                    burst.segment = burst.segment.max(len);
                    // Only the last of a burst may be shorter than the others.
                    if len < full || burst.bytes + full > most {
                        break;
                    }
                }
                Err(Error::Done) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(burst)
    }
}
