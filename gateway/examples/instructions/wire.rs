//! The wire between the workers, and the devices at its ends.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};
use stoq::limits::WINDOW_BYTES_MIN;
use stoq::nic::{Nic, NicInfo, RxChecksum, TxKind};
use stoq::quic::cid::CID_LEN;
use stoq::quic::routable::ROUTABLE_CID_LEN;
use stoq::quic::transport::QuicConfig;

/// Packets before the count begins: the handshake, and a payload that is not in the memory tier yet.
const WARM_PACKETS: u64 = 8_000;
/// The same for small messages, which enter QUIC faster than they leave until its send window is full.
const WARM_SMALL_PACKETS: u64 = 32_000;
/// The same where the path has delay: three times what it holds.
const WARM_LONG_PACKETS: u64 = 250_000;
/// Frames that the device holds, and how often both sides have a turn.
const DEVICE_LEN: usize = 1024;
const TURN: Duration = Duration::from_micros(20);
/// The same of a path with delay: the frames that 10 Gbit/s carry in a turn, and as many as a worker takes in a turn.
const DEVICE_LONG_LEN: usize = 64;
const TURN_LONG: Duration = Duration::from_micros(79);
const DELAY_LONG: Duration = Duration::from_millis(50);
pub(crate) const MTU: u16 = 1500;
/// How much longer the connection IDs of a fleet are, and the packets to its gateways.
pub(crate) const FLEET_MORE_BYTES: u16 = (ROUTABLE_CID_LEN - CID_LEN) as u16;

/// What is between the two workers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wire {
    /// No delay. A frame that the other side has not taken occupies the device.
    Short,
    /// 10 Gbit/s with a round trip of 100 ms.
    Long,
}

impl Wire {
    pub(crate) fn turn(self) -> Duration {
        if self == Self::Short { TURN } else { TURN_LONG }
    }

    pub(crate) fn warm_packets(self, path: &str) -> u64 {
        match self {
            Self::Long => WARM_LONG_PACKETS,
            Self::Short if path == "small" => WARM_SMALL_PACKETS,
            Self::Short => WARM_PACKETS,
        }
    }

    /// The windows of `scripts/bench`, or those that the path has once they have grown.
    pub(crate) fn quic(self, connections: Option<usize>) -> QuicConfig {
        if connections.is_some() {
            return QuicConfig {
                stream_receive_window_bytes: WINDOW_BYTES_MIN as u32,
                receive_window_bytes: WINDOW_BYTES_MIN as u32,
                receive_window_max_bytes: WINDOW_BYTES_MIN as u32,
                send_window_bytes: WINDOW_BYTES_MIN as u32,
                send_window_max_bytes: WINDOW_BYTES_MIN as u32,
                initial_udp_payload_bytes: 0,
                mtu_discovery: false,
                ..QuicConfig::default()
            };
        }
        let window = if self == Self::Short { 64 << 20 } else { 512 << 20 };
        QuicConfig {
            stream_receive_window_bytes: 64 << 20,
            receive_window_bytes: 2 * window,
            send_window_bytes: window,
            initial_congestion_window_bytes: if self == Self::Short { 4 << 20 } else { 512 << 20 },
            initial_udp_payload_bytes: 0,
            mtu_discovery: false,
            ..QuicConfig::default()
        }
    }
}

/// One direction of the wire: frames in flight with the times when they arrive, and buffers for reuse.
pub(crate) struct Line {
    wire: Wire,
    mtu: u16,
    pub(crate) frames: VecDeque<(Instant, Vec<u8>)>,
    free: Vec<Vec<u8>>,
    now: Instant,
    /// Frames sent in this turn.
    sent: usize,
    /// The queue of the receiving device at which they arrive.
    pub(crate) queue: usize,
}

impl Line {
    pub(crate) fn new(wire: Wire, mtu: u16, now: Instant) -> SharedLine {
        Rc::new(RefCell::new(Self {
            wire,
            mtu,
            frames: VecDeque::new(),
            free: Vec::new(),
            now,
            sent: 0,
            queue: 0,
        }))
    }

    pub(crate) fn begin_turn(&mut self, now: Instant) {
        (self.now, self.sent) = (now, 0);
    }

    pub(crate) fn room(&self) -> usize {
        match self.wire {
            Wire::Short => DEVICE_LEN - self.frames.len(),
            Wire::Long => DEVICE_LONG_LEN - self.sent,
        }
    }

    pub(crate) fn delay(&self) -> Duration {
        if self.wire == Wire::Short { Duration::ZERO } else { DELAY_LONG }
    }
}

pub(crate) type SharedLine = Rc<RefCell<Line>>;

/// A device at one end of the wire.
pub(crate) struct End {
    info: NicInfo,
    incoming: SharedLine,
    outgoing: SharedLine,
    pub(crate) queue: usize,
}

impl End {
    pub(crate) fn new((station, queue): (u8, usize), incoming: SharedLine, outgoing: SharedLine) -> Self {
        let info = NicInfo {
            device: format!("end{station}"),
            driver: "memory".to_owned(),
            mtu: incoming.borrow().mtu,
            mac: [2, 0, 0, 0, 0, station],
            tx_checksum: false,
            rx_checksum: false,
        };
        Self { info, incoming, outgoing, queue }
    }
}

impl Nic for End {
    fn rx_burst(&mut self, _now: Instant, mut frame: impl FnMut(&[u8], RxChecksum)) -> usize {
        let mut line = self.incoming.borrow_mut();
        let mut count = 0;
        while line.queue == self.queue
            && count < stoq::limits::RX_BURST_LEN
            && line.frames.front().is_some_and(|(arrives, _)| *arrives <= line.now)
        {
            let Some((_, bytes)) = line.frames.pop_front() else { break };
            frame(&bytes, RxChecksum::Unknown);
            line.free.push(bytes);
            count += 1;
        }
        count
    }

    fn tx_room(&self) -> usize {
        self.outgoing.borrow().room()
    }

    fn tx_frame(&mut self, _kind: TxKind, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        let mut line = self.outgoing.borrow_mut();
        if line.room() == 0 {
            return false;
        }
        let mut frame = line.free.pop().unwrap_or_default();
        frame.resize(len, 0);
        fill(&mut frame);
        let arrives = line.now + line.delay();
        line.frames.push_back((arrives, frame));
        line.sent += 1;
        true
    }

    fn tx_flush(&mut self, _now: Instant) -> usize {
        0
    }

    fn info(&self) -> &NicInfo {
        &self.info
    }

    fn link_up(&self) -> bool {
        true
    }
}
