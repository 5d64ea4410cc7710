//! Frames that a client may send, and those that it may not.

use crate::support::DISCARD;
use rand::rngs::StdRng;
use rand::{Rng, RngCore};
use stoq::record::MessageHeader;
use stoq::varint;

/// Frames in one packet, bytes.
pub(crate) const FRAMES_BYTES: usize = 1100;

pub(crate) fn numbers(out: &mut Vec<u8>, values: &[u64]) {
    values.iter().for_each(|&value| varint::write(value, out));
}

/// A number that is small, somewhere, or at the end of what a varint carries.
fn any_number(random: &mut StdRng) -> u64 {
    match random.random_range(0..4) {
        0 | 1 => random.random_range(0..64),
        2 => random.random_range(0..1 << 20),
        _ => varint::MAX - random.random_range(0..4),
    }
}

/// What a forger has used up of the numbers that may be used once.
#[derive(Default)]
pub(crate) struct Used {
    connection_ids: u64,
    retired: u64,
    streams: u64,
}

/// Appends a frame that RFC 9000 §19 allows a client at this moment.
fn civil_frame(random: &mut StdRng, used: &mut Used, out: &mut Vec<u8>) {
    let stream = 4 * random.random_range(0..8);
    match random.random_range(0..16) {
        0 => out.resize(out.len() + random.random_range(1..20), 0),
        1 => out.push(0x01),
        // An ACK of the first packets, with and without ECN counts that are made up.
        2 => numbers(out, &[0x02, random.random_range(0..2), random.random_range(0..1 << 20), 0, 0]),
        3 => numbers(out, &[0x03, 0, 0, 0, 0, any_number(random), any_number(random), any_number(random)]),
        // A stream that is opened and given up.
        4 => {
            used.streams += 1;
            numbers(out, &[0x04, 4 * (8 + used.streams % 200), any_number(random), 0]);
        }
        5 => numbers(out, &[0x05, stream, any_number(random)]),
        // A byte of CRYPTO or of a stream behind a gap that is never filled.
        6 => {
            numbers(out, &[0x06, random.random_range(1000..4000), 1]);
            out.push(b'c');
        }
        7 => {
            let dir = random.random_range(0..2) * 2;
            numbers(out, &[0x0e, stream + dir, random.random_range(1..8000), 1]);
            out.push(b's');
        }
        8 => numbers(out, &[0x10, any_number(random)]),
        9 => numbers(out, &[0x11, stream, any_number(random)]),
        10 => numbers(out, &[0x12 + random.random_range(0..2), random.random_range(0..1 << 20)]),
        11 => numbers(out, &[0x14, any_number(random)]),
        12 => {
            used.connection_ids += 1;
            let sequence = used.connection_ids;
            numbers(out, &[0x18, sequence, sequence.saturating_sub(2)]);
            out.push(8);
            out.extend_from_slice(&random.random::<[u8; 24]>());
        }
        13 if used.retired < 4 => {
            used.retired += 1;
            numbers(out, &[0x19, used.retired]);
        }
        13 => numbers(out, &[0x1f]),
        14 => {
            out.push(0x1a + random.random_range(0..2));
            out.extend_from_slice(&random.random::<[u8; 8]>());
        }
        _ => {
            let mut message = Vec::new();
            MessageHeader { queue: DISCARD, token: None }.emit_record_front(3, &mut message);
            numbers(out, &[0x31, message.len() as u64 + 3]);
            out.extend_from_slice(&message);
            out.extend_from_slice(b"odd");
        }
    }
}

/// Appends a frame of any type with any numbers, or no frame at all.
fn wild_frame(random: &mut StdRng, out: &mut Vec<u8>) {
    match random.random_range(0..4) {
        0 => {
            let mut noise = vec![0; random.random_range(1..40)];
            random.fill_bytes(&mut noise);
            out.extend_from_slice(&noise);
        }
        1 => numbers(out, &[0x40af, any_number(random), any_number(random), any_number(random), 0]),
        _ => {
            let values: Vec<u64> = (0..random.random_range(0..6)).map(|_| any_number(random)).collect();
            varint::write(random.random_range(0..0x32), out);
            numbers(out, &values);
        }
    }
}

/// Random frames in random order, as many as a packet holds; `wild` of a thousand break rules.
pub(crate) fn random_frames(random: &mut StdRng, used: &mut Used, wild: u32) -> Vec<u8> {
    let (len, mut frames) = (random.random_range(4..FRAMES_BYTES), Vec::new());
    while frames.len() < len {
        if random.random_ratio(wild, 1000) {
            wild_frame(random, &mut frames);
        } else if random.random_ratio(1, 50) {
            frames.resize(frames.len() + 3, 0);
        } else {
            civil_frame(random, used, &mut frames);
        }
    }
    frames
}

/// A flood of one kind of frame: its name, and a packet of it by its number.
pub(crate) type FrameFlood = (&'static str, fn(u64, &mut Vec<u8>));

/// Fills a packet.
fn repeat(out: &mut Vec<u8>, mut frame: impl FnMut(u64, &mut Vec<u8>)) {
    for at in 0.. {
        let len = out.len();
        frame(at, out);
        if out.len() > FRAMES_BYTES {
            return out.truncate(len);
        }
    }
}

/// Every kind that has no bound in its own right.
pub(crate) const FLOODS: [FrameFlood; 12] = [
    ("PING", |_, out| repeat(out, |_, out| out.push(0x01))),
    ("PATH_CHALLENGE", |number, out| {
        repeat(out, |at, out| {
            out.push(0x1a);
            out.extend_from_slice(&(number << 16 | at).to_be_bytes());
        });
    }),
    ("PATH_RESPONSE", |number, out| {
        repeat(out, |at, out| {
            out.push(0x1b);
            out.extend_from_slice(&(number << 16 | at).to_be_bytes());
        });
    }),
    // Each retires the one before: the gateway owes a RETIRE_CONNECTION_ID for each.
    ("NEW_CONNECTION_ID", |number, out| {
        repeat(out, |at, out| {
            let sequence = 1 + number * 30 + at;
            if at < 30 {
                numbers(out, &[0x18, sequence, sequence]);
                out.push(8);
                out.extend_from_slice(&sequence.to_be_bytes());
                out.extend_from_slice(&[7; 16]);
            } else {
                out.resize(FRAMES_BYTES + 1, 0);
            }
        });
    }),
    // The gateway issues another one for each; a number that it has not issued yet is a fault.
    ("RETIRE_CONNECTION_ID", |number, out| {
        numbers(out, &[0x19, 1 + number / 16]);
        out.resize(20, 0);
    }),
    ("ACK", |_, out| repeat(out, |_, out| numbers(out, &[0x02, 1, 0, 0, 1]))),
    ("ACK with false ECN counts", |number, out| {
        repeat(out, |at, out| numbers(out, &[0x03, 1, 0, 0, 1, varint::MAX - at, number, varint::MAX]));
    }),
    ("MAX_DATA", |number, out| repeat(out, |at, out| numbers(out, &[0x10, number * 200 + at]))),
    ("STREAM_DATA_BLOCKED", |_, out| repeat(out, |at, out| numbers(out, &[0x15, 4 * (at % 256), at]))),
    ("STREAMS_BLOCKED", |_, out| repeat(out, |_, out| numbers(out, &[0x16, 1 << 50]))),
    ("empty STREAM", |_, out| repeat(out, |at, out| numbers(out, &[0x0e, 4 * (at % 256), 1, 0]))),
    ("IMMEDIATE_ACK", |_, out| repeat(out, |_, out| numbers(out, &[0x1f]))),
];

/// Kinds of which one frame ends the connection (RFC 9000 §7.5, §13.1, §19.3, §19.15, §19.16 and §19.20).
#[allow(dead_code, reason = "the worlds send them")]
pub(crate) const BREACHES: [FrameFlood; 6] = [
    ("CRYPTO with gaps", |number, out| {
        repeat(out, |at, out| {
            numbers(out, &[0x06, (number << 8 | at) * 2 + 1, 1]);
            out.push(b'c');
        });
    }),
    ("ACK of packets not sent", |number, out| numbers(out, &[0x02, 1000 + number, 0, 0, 1000])),
    ("ACK ranges below zero", |_, out| numbers(out, &[0x02, 5, 0, 1, 2, 4, 9])),
    ("RETIRE_CONNECTION_ID of none", |number, out| numbers(out, &[0x19, 1000 + number])),
    ("NEW_CONNECTION_ID past the limit", |_, out| {
        for sequence in 1..=20 {
            numbers(out, &[0x18, sequence, 0]);
            out.push(8);
            out.extend_from_slice(&sequence.to_be_bytes());
            out.extend_from_slice(&[7; 16]);
        }
    }),
    ("HANDSHAKE_DONE", |_, out| numbers(out, &[0x1e])),
];
