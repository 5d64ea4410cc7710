//! The packets of a flood.

use super::initial::{INITIAL_DATAGRAM_BYTES, Initials};
use rand::{Rng, RngCore};
use stoq::quic::cid::CID_LEN;
use stoq::wire::ethernet::{HEADER_BYTES as ETHERNET_BYTES, VLAN_TAG_BYTES};
use stoq::wire::ip::{V4_HEADER_BYTES, V6_HEADER_BYTES};
use stoq::wire::udp::HEADER_BYTES as UDP_BYTES;

/// The frame check sequence, bytes: sizes of frames include it (RFC 2544 §9), buffers do not.
pub const FCS_BYTES: usize = 4;
/// IMIX as most testers define it: of 48 frames, 28 of 64 bytes, 16 of 570 and 4 of 1518, spread evenly.
pub const IMIX: [(usize, usize); 3] = [(7, 64), (4, 570), (1, 1518)];
/// Bytes of random data from which garbage is cut. More than a cache holds would measure the generator's memory.
const NOISE_BYTES: usize = 256 * 1024;

/// Datagrams with gaps that one connection gets.
const GAPS_LEN: u32 = 200;

/// Sizes of frames in sending order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Runs of equal datagrams: their number, and the UDP payload of each, bytes.
    runs: Vec<(usize, usize)>,
}

/// A size that cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Smaller than its headers.
    #[error("a frame of {0} bytes has no room for its headers: give {1} or more")]
    TooSmall(usize, usize),
    /// Larger than the device takes.
    #[error("a frame of {0} bytes is larger than the device takes: give {1} at most, or raise its MTU")]
    TooLarge(usize, usize),
}

impl Mix {
    /// Runs of frames (their number, and their size with the frame check sequence), over IPv6 or IPv4, tagged or not, on a device of this
    /// MTU (layer-3 bytes).
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn new(runs: &[(usize, usize)], ipv6: bool, tagged: bool, mtu: u16) -> Result<Self, LoadError> {
        let tag = if tagged { VLAN_TAG_BYTES } else { 0 };
        let ip = if ipv6 { V6_HEADER_BYTES } else { V4_HEADER_BYTES };
        let around = ETHERNET_BYTES + tag + FCS_BYTES;
        let headers = around + ip + UDP_BYTES;
        // At least one byte: a flood of empty datagrams would look like silence.
        let (least, most) = (headers + 1, around + usize::from(mtu));
        let payload = |&(count, frame): &(usize, usize)| match frame {
            frame if frame < least => Err(LoadError::TooSmall(frame, least)),
            frame if frame > most => Err(LoadError::TooLarge(frame, most)),
            frame => Ok((count, frame - headers)),
        };
        Ok(Self { runs: runs.iter().map(payload).collect::<Result<_, _>>()? })
    }
}

/// An endless supply of datagrams.
#[derive(Debug)]
pub enum Load {
    /// Random bytes.
    Garbage(Noise),
    /// Flights that begin a connection each.
    Initials(Initials, Vec<u8>),
    /// First datagrams of such flights alone.
    Halves(Initials, Vec<u8>),
    /// CRYPTO frames with gaps between them.
    Gaps(Gaps),
    /// The same datagrams of [`INITIAL_DATAGRAM_BYTES`] again and again.
    Replay(Vec<u8>),
}

/// Datagrams without a whole hello: [`GAPS_LEN`] of one connection, then of the next.
#[derive(Debug)]
pub struct Gaps {
    initials: Initials,
    destination: [u8; CID_LEN],
    number: u32,
    buffer: Vec<u8>,
}

/// The source of garbage.
#[derive(Debug)]
pub struct Noise {
    bytes: Vec<u8>,
    at: usize,
    mix: Mix,
    run: usize,
    /// Datagrams of this run already sent.
    sent: usize,
}

impl Load {
    /// Random bytes in frames of these sizes.
    pub fn garbage(mix: Mix) -> Self {
        let mut bytes = vec![0; NOISE_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        Self::Garbage(Noise { bytes, at: 0, mix, run: 0, sent: 0 })
    }

    /// First flights, each to a connection of its own.
    pub fn initials(initials: Initials) -> Self {
        Self::Initials(initials, Vec::new())
    }

    /// Datagrams to a connection of its own each, whose hellos never become whole.
    pub fn halves(initials: Initials) -> Self {
        Self::Halves(initials, Vec::new())
    }

    /// CRYPTO frames of one byte, each behind a gap.
    pub fn gaps(initials: Initials) -> Self {
        Self::Gaps(Gaps { initials, destination: rand::rng().random(), number: 0, buffer: Vec::new() })
    }

    /// One first flight, repeated.
    pub fn replay(initials: &Initials) -> Self {
        let mut flight = Vec::new();
        initials.emit_flight(&mut flight);
        Self::Replay(flight)
    }

    /// The next datagrams, one after another, and the length of each. There are about `want` of them, which is at least 1: fewer where
    /// the size changes, and always whole flights.
    pub fn next(&mut self, want: usize) -> (&[u8], usize) {
        match self {
            Self::Garbage(noise) => noise.next(want),
            Self::Initials(initials, buffer) => {
                buffer.clear();
                for _ in 0..want.div_ceil(initials.flight_len()) {
                    initials.emit_flight(buffer);
                }
                (buffer, INITIAL_DATAGRAM_BYTES)
            }
            Self::Halves(initials, buffer) => {
                buffer.clear();
                (0..want).for_each(|_| initials.emit_half(buffer));
                (buffer, INITIAL_DATAGRAM_BYTES)
            }
            Self::Gaps(gaps) => (gaps.next(want), INITIAL_DATAGRAM_BYTES),
            Self::Replay(flight) => (flight, INITIAL_DATAGRAM_BYTES),
        }
    }
}

impl Gaps {
    fn next(&mut self, want: usize) -> &[u8] {
        self.buffer.clear();
        for _ in 0..want {
            self.initials.emit_gap(&self.destination, self.number, &mut self.buffer);
            self.number += 1;
            if self.number == GAPS_LEN {
                (self.destination, self.number) = (rand::rng().random(), 0);
            }
        }
        &self.buffer
    }
}

impl Noise {
    fn next(&mut self, want: usize) -> (&[u8], usize) {
        let (count, len) = self.mix.runs[self.run];
        let count = want.min(count - self.sent).min(NOISE_BYTES / len).max(1);
        let bytes = count * len;
        if self.at + bytes > self.bytes.len() {
            // Each round begins at another offset, so that frames do not repeat soon.
            self.at = (self.at + 1) % len;
        }
        let from = self.at;
        self.at += bytes;
        self.sent += count;
        if self.sent >= self.mix.runs[self.run].0 {
            self.sent = 0;
            self.run = (self.run + 1) % self.mix.runs.len();
        }
        (&self.bytes[from..from + bytes], len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The payload lengths of the next datagrams.
    fn lens(load: &mut Load, count: usize) -> Vec<usize> {
        let mut lens = Vec::new();
        while lens.len() < count {
            let (bytes, len) = load.next(64.min(count - lens.len()));
            assert!(!bytes.is_empty() && bytes.len() % len == 0);
            lens.extend(std::iter::repeat_n(len, bytes.len() / len));
        }
        lens
    }

    #[test]
    fn a_frame_of_64_bytes_carries_18_over_ipv4() {
        assert_eq!(Mix::new(&[(64, 64)], false, false, 1500).unwrap().runs, [(64, 18)]);
        assert_eq!(Mix::new(&[(64, 1518)], false, false, 1500).unwrap().runs, [(64, 1472)]);
        assert_eq!(Mix::new(&[(64, 128)], true, true, 1500).unwrap().runs, [(64, 58)]);
    }

    #[test]
    fn sizes_that_cannot_be_sent_are_refused() {
        assert_eq!(Mix::new(&[(1, 64)], true, false, 1500), Err(LoadError::TooSmall(64, 67)));
        assert_eq!(Mix::new(&[(1, 46)], false, false, 1500), Err(LoadError::TooSmall(46, 47)));
        assert_eq!(Mix::new(&[(1, 1519)], false, false, 1500), Err(LoadError::TooLarge(1519, 1518)));
        assert!(Mix::new(&[(1, 1522)], false, true, 1500).is_ok());
    }

    #[test]
    fn imix_is_28_to_16_to_4() {
        let mut load = Load::garbage(Mix::new(&IMIX, false, false, 1500).unwrap());
        let lens = lens(&mut load, 48 * 1000);
        let count = |frame: usize| lens.iter().filter(|&&len| len == frame - 46).count();
        assert_eq!([64, 570, 1518].map(count), [28_000, 16_000, 4_000]);
    }

    #[test]
    fn garbage_differs_from_datagram_to_datagram() {
        let mut load = Load::garbage(Mix::new(&[(64, 64)], false, false, 1500).unwrap());
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            let (bytes, len) = load.next(64);
            seen.extend(bytes.chunks(len).map(<[u8]>::to_vec));
        }
        assert!(seen.len() > 63_000, "{} of 64,000 differ", seen.len());
    }
}
