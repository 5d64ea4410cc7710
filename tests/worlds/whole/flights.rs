//! First flights of clients that are not there: spoofed ones, and recorded ones with early data.

use super::Simulation;
use super::hostile::{Attack, FORGER};
use crate::support::{UDP_PORT, gateway_address, trust};
use quinn_proto::{ClientConfig, Endpoint, EndpointConfig};
use rand::Rng;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use stoq::quic::transport::QuicConfig;
use stoq::tls::{ClientTls, client_config, connect_name};
use stoq::wire::ip::Addresses;
use stoq::wire::udp::{Udp, UdpTemplate};
use stoq::wire::{ChecksumBy, IpFamily};

/// The first flights that are made; gateways forget their connections in between.
const MADE_LEN: usize = 300;
/// The spoofed flights of most attacks.
const SPOOFED_LEN: usize = 30;

/// First flights without a certificate, each with its datagrams. They are made once: each costs a key pair of ML-KEM.
pub(super) fn flights() -> &'static [Vec<Vec<u8>>] {
    static MADE: OnceLock<Vec<Vec<Vec<u8>>>> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        let mut config = ClientConfig::new(client_config(&ClientTls::new(trust())).unwrap());
        config.transport_config(QuicConfig::default().transport(1500, IpFamily::V4, 256));
        let (now, remote) = (Instant::now(), gateway_address(0));
        (0..MADE_LEN)
            .map(|_| {
                let name = connect_name(remote);
                let (_, mut quic) = endpoint.connect(now, config.clone(), remote, &name).unwrap();
                let mut datagrams = Vec::new();
                loop {
                    let mut datagram = Vec::new();
                    let Some(transmit) = quic.poll_transmit(now, 1, &mut datagram) else { break };
                    datagram.truncate(transmit.size);
                    datagrams.push(datagram);
                }
                assert!(datagrams.len() > 1, "a ClientHello needs several datagrams");
                datagrams
            })
            .collect()
    })
}

impl Simulation {
    /// First flights whose source addresses are those of clients, or of no station. Each second ClientHello never becomes whole.
    pub(super) fn spoof(&mut self, gateway: usize) {
        // One attack of some is enough for the gateway to want proofs.
        let count = if self.random.random_ratio(1, 8) { MADE_LEN } else { SPOOFED_LEN };
        let begin = self.random.random_range(0..MADE_LEN);
        let mut frames = Vec::new();
        for number in 0..count {
            let flight = &flights()[(begin + number) % MADE_LEN];
            let len = if number % 2 == 0 { flight.len() } else { 1 };
            let host = match self.random.random_range(0..8) {
                0 => 10 + self.random.random_range(0..self.setup.clients) as u8,
                _ => self.random.random_range(201..=254),
            };
            let source = SocketAddr::new([10, 77, 0, host].into(), self.random.random_range(1024..60_000));
            frames.extend(flight[..len].iter().map(|datagram| frame(source, gateway, datagram)));
        }
        self.carried_out(Attack::SpoofedFlights, true);
        for burst in frames.chunks(64) {
            self.forge(burst);
            self.pass(2);
        }
    }

    /// First flights with early data are sent again: as they were, or their 0-RTT packets without the first ones.
    pub(super) fn replay_early(&mut self) {
        let flights = self.seen.early_flights();
        self.carried_out(Attack::EarlyReplay, !flights.is_empty());
        for flight in flights {
            self.forge(&flight);
        }
    }
}

/// A frame from this address, which is not the sender's.
fn frame(source: SocketAddr, gateway: usize, datagram: &[u8]) -> Vec<u8> {
    let destination: IpAddr = gateway_address(gateway).ip();
    let addresses = Addresses::new(source.ip(), destination).unwrap();
    let ports = Udp { source_port: source.port(), destination_port: UDP_PORT };
    let mac = [2, 0, 0, 0, 0, gateway as u8 + 1];
    let template = UdpTemplate::new(FORGER, mac, None, addresses, ports);
    let mut frame = vec![0; template.header_len() + datagram.len()];
    template.emit(0, datagram, ChecksumBy::Software, &mut frame);
    frame
}
