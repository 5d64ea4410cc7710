//! The settings of connections, the sending of their packets, and the loop that drives them.

use peer_common::cli::Tuning;
use peer_common::socket::{BURST_BYTES_MAX, BURST_PACKETS_MAX, Inbox, Socket};
use std::cell::{Cell, RefCell};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;
use tquic::{
    Config, CongestionControlAlgorithm, Endpoint, PacketInfo, PacketSendHandler, TlsConfig, TransportHandler,
};

const IDLE_TIMEOUT_MS: u64 = 30_000;

pub(crate) fn config(tuning: Tuning, mut tls: TlsConfig) -> tquic::Result<Config> {
    tls.set_application_protos(vec![peer_common::ALPN.to_vec()])?;
    let mut config = Config::new()?;
    config.set_tls_config(tls);
    config.set_max_idle_timeout(IDLE_TIMEOUT_MS);
    // Without this search tquic always sends 1200 bytes a packet; with it, the size reaches the MTU at once.
    config.enable_dplpmtud(true);
    config.set_recv_udp_payload_size(tuning.mtu);
    config.set_send_udp_payload_size(tuning.mtu.into());
    config.set_initial_max_data(tuning.connection_window());
    config.set_max_connection_window(tuning.connection_window());
    config.set_initial_max_stream_data_uni(tuning.stream_window());
    config.set_max_stream_window(tuning.stream_window());
    config.set_congestion_control_algorithm(CongestionControlAlgorithm::Cubic);
    config.set_initial_congestion_window(tuning.initial_window_packets() as u64);
    config.enable_pacing(false);
    // Whole bursts are handed over, as many packets as one call of the kernel takes.
    config.set_send_batch_size((BURST_BYTES_MAX / usize::from(tuning.mtu.max(1))).min(BURST_PACKETS_MAX));
    Ok(config)
}

/// Sends what an endpoint hands over, each run of equal packets as one burst.
struct Outbox(RefCell<Socket>);

impl PacketSendHandler for Outbox {
    fn on_packets_send(&self, packets: &[(Vec<u8>, PacketInfo)]) -> tquic::Result<usize> {
        let mut pieces = [IoSlice::new(&[]); BURST_PACKETS_MAX];
        let mut rest = packets;
        while let Some((first, info)) = rest.first() {
            let segment = first.len();
            let mut bytes = 0;
            let mut count = 0;
            for (packet, to) in rest.iter().take(BURST_PACKETS_MAX) {
                if packet.len() > segment || to.dst != info.dst || bytes + packet.len() > BURST_BYTES_MAX {
                    break;
                }
                pieces[count] = IoSlice::new(packet);
                bytes += packet.len();
                count += 1;
                // Only the last of a burst may be shorter than the others.
                if packet.len() < segment {
                    break;
                }
            }
            self.0
                .borrow_mut()
                .send(info.dst, &pieces[..count], segment)
                .map_err(|error| tquic::Error::IoError(error.to_string()))?;
            rest = &rest[count..];
        }
        Ok(packets.len())
    }
}

/// An endpoint on its socket.
pub(crate) struct Driver {
    pub(crate) endpoint: Endpoint,
    outbox: Rc<Outbox>,
    inbox: Inbox,
    pub(crate) local: SocketAddr,
    pub(crate) buffers: [usize; 2],
}

impl Driver {
    pub(crate) fn new(
        address: SocketAddr,
        tuning: Tuning,
        config: Config,
        is_server: bool,
        handler: Box<dyn TransportHandler>,
    ) -> anyhow::Result<Self> {
        let socket = Socket::new(address, tuning)?;
        let (local, buffers) = (socket.local, socket.buffers);
        let outbox = Rc::new(Outbox(RefCell::new(socket)));
        let endpoint = Endpoint::new(Box::new(config), is_server, handler, Rc::clone(&outbox) as _);
        Ok(Self { endpoint, outbox, inbox: Inbox::default(), local, buffers })
    }

    /// Datagrams sent, and the calls they took.
    pub(crate) fn sent(&self) -> (u64, u64) {
        let socket = self.outbox.0.borrow();
        (socket.datagrams_sent, socket.send_calls)
    }

    /// One turn of the loop: sends, receives, and sleeps when there was nothing to receive and `may_sleep`.
    pub(crate) fn turn(&mut self, may_sleep: bool) -> anyhow::Result<()> {
        self.endpoint.process_connections()?;
        let socket = self.outbox.0.borrow();
        let now = Instant::now();
        let failed = Cell::new(None);
        let (endpoint, dst) = (&mut self.endpoint, self.local);
        let received = socket.receive(&mut self.inbox, |datagram, src| {
            if let Err(error) = endpoint.recv(datagram, &PacketInfo { src, dst, time: now }) {
                failed.set(Some(error));
            }
        })?;
        if let Some(error) = failed.take() {
            eprintln!("{error}");
        }
        if !received && may_sleep {
            socket.wait_readable(self.endpoint.timeout())?;
        }
        drop(socket);
        self.endpoint.on_timeout(Instant::now());
        Ok(())
    }
}
