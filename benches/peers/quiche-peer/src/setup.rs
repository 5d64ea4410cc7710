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

/// How far ahead of its time a paced packet may leave: what a sleeping loop can keep, and the bursts that it makes.
const PACED_AHEAD: Duration = Duration::from_millis(1);

/// One burst of packets that leave with one call.
pub(crate) struct Burst {
    packets: Vec<u8>,
    paced: bool,
    /// When pacing lets more packets leave, where it has held some back.
    next: Option<Instant>,
}

impl Burst {
    /// Bursts of a connection that paces, or of one that sends as much as its window allows.
    pub(crate) fn new(paced: bool) -> Self {
        Self { packets: vec![0; BURST_BYTES_MAX], paced, next: None }
    }

    /// Sends the connection's packets, up to a few bursts. Returns whether there may be more now.
    pub(crate) fn send(&mut self, connection: &mut Connection, socket: &mut Socket) -> anyhow::Result<bool> {
        self.next = None;
        for _ in 0..BURSTS_MAX {
            let Some((to, filled, segment)) = self.fill(connection)? else { return Ok(false) };
            socket.send(to, &[IoSlice::new(&self.packets[..filled])], segment)?;
        }
        Ok(true)
    }

    /// How long pacing holds packets back; none where it holds none back.
    pub(crate) fn due_in(&self) -> Option<Duration> {
        self.next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    /// Whether pacing lets a packet leave now.
    fn is_due(&mut self, connection: &Connection) -> bool {
        let now = Instant::now();
        let release = connection.get_next_release_time().filter(|_| self.paced);
        let Some(at) = release.and_then(|release| release.time(now)) else { return true };
        if at <= now + PACED_AHEAD {
            return true;
        }
        // Half of what may leave ahead is sent at once, not a packet a turn.
        self.next = Some(at - PACED_AHEAD / 2);
        false
    }

    /// The destination of the burst, its bytes, and the bytes of one packet; none if there is nothing to send.
    fn fill(&mut self, connection: &mut Connection) -> anyhow::Result<Option<(SocketAddr, usize, usize)>> {
        let full = connection.max_send_udp_payload_size();
        let (mut filled, mut segment, mut to) = (0, 0, None);
        for _ in 0..BURST_PACKETS_MAX {
            if !self.is_due(connection) {
                break;
            }
            let Some(room) = self.packets.get_mut(filled..filled + full) else { break };
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
