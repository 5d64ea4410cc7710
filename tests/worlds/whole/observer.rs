//! An observer on the link before gateway 0.

use crate::support::{GATEWAY_MAC, World};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use stoq::wire::ethernet::HEADER_BYTES as ETHERNET_BYTES;
use stoq::wire::udp::HEADER_BYTES as UDP_BYTES;

/// Ethernet, IPv4 and UDP headers, bytes.
const HEADERS_BYTES: usize = ETHERNET_BYTES + 20 + UDP_BYTES;
/// The last frames that it keeps.
const LAST_LEN: usize = 200;
/// The first flights that it keeps.
const FLIGHTS_LEN_MAX: usize = 16;
/// The frames of a first flight that it keeps.
const FLIGHT_LEN_MAX: usize = 16;

/// The frames that passed; clones show the same ones.
#[derive(Clone, Default)]
pub(super) struct Observer(Arc<Mutex<ObservedFrames>>);

#[derive(Default)]
struct ObservedFrames {
    last: VecDeque<Vec<u8>>,
    flights: VecDeque<FirstFlight>,
}

/// The packets of a client that name the gateway by the connection ID that the client chose.
struct FirstFlight {
    destination: Vec<u8>,
    has_early_data: bool,
    frames: Vec<Vec<u8>>,
}

impl Observer {
    pub(super) fn on(world: &World) -> Self {
        let observer = Self::default();
        observer.watch(world);
        observer
    }

    /// Watches the station that gateway 0 has now.
    pub(super) fn watch(&self, world: &World) {
        let seen = self.0.clone();
        world.link.steer(GATEWAY_MAC, move |frame, _| {
            seen.lock().unwrap().see(frame);
            0
        });
    }

    /// Takes the last frames.
    pub(super) fn take_last(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().last.drain(..).collect()
    }

    /// The first flights with early data, each with its frames.
    pub(super) fn early_flights(&self) -> Vec<Vec<Vec<u8>>> {
        let seen = self.0.lock().unwrap();
        let early = seen.flights.iter().filter(|flight| flight.has_early_data);
        early.map(|flight| flight.frames.clone()).collect()
    }
}

impl ObservedFrames {
    fn see(&mut self, frame: &[u8]) {
        if self.last.len() == LAST_LEN {
            self.last.pop_front();
        }
        self.last.push_back(frame.to_vec());
        let Some((destination, has_early_data)) = frame.get(HEADERS_BYTES..).and_then(first_packets) else {
            return;
        };
        let at = self.flights.iter().position(|flight| flight.destination == destination);
        let at = at.unwrap_or_else(|| {
            if self.flights.len() == FLIGHTS_LEN_MAX {
                let plain = self.flights.iter().position(|flight| !flight.has_early_data);
                self.flights.remove(plain.unwrap_or(0));
            }
            self.flights.push_back(FirstFlight { destination, has_early_data: false, frames: Vec::new() });
            self.flights.len() - 1
        });
        let flight = &mut self.flights[at];
        flight.has_early_data |= has_early_data;
        if flight.frames.len() < FLIGHT_LEN_MAX {
            flight.frames.push(frame.to_vec());
        }
    }
}

/// The destination connection ID of a datagram of Initial and 0-RTT packets (RFC 9000 §17.2), and whether there is a 0-RTT packet.
fn first_packets(datagram: &[u8]) -> Option<(Vec<u8>, bool)> {
    let (mut rest, mut found) = (datagram, None);
    while let [first, _, _, _, 1, fields @ ..] = rest {
        let is_early = match first & 0xf0 {
            0xc0 => false,
            0xd0 => true,
            _ => break,
        };
        let (destination, fields) = counted(fields)?;
        let (_, mut fields) = counted(fields)?;
        if !is_early {
            let (token_len, after) = varint(fields)?;
            fields = after.get(token_len..)?;
        }
        let (len, after) = varint(fields)?;
        rest = after.get(len..)?;
        let was_early = found.is_some_and(|(_, early)| early);
        found = Some((destination, was_early || is_early));
    }
    found.map(|(destination, is_early)| (destination.to_vec(), is_early))
}

/// A connection ID, which follows its length.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked((*len).into())
}

fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (value, len) = stoq::varint::peek(bytes)?;
    Some((value as usize, &bytes[len..]))
}
