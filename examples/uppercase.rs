//! A gateway with an application that answers every message in upper case.
//!
//!     cargo run -p stoq --example uppercase -- CERTIFICATE KEY CLIENT_NODE_ID
//!     stoq ping --queue 7 --gateway 127.0.0.1:4433 ...

#![allow(clippy::print_stdout, reason = "it prints for the user who runs it by hand")]

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};
use stoq::application::{Application, Outbox, Placement, Received};
use stoq::network::{KernelConfig, NetworkConfig, OpenNetwork};
use stoq::node::{ApplicationHost, Hosted, NodeConfig};
use stoq::queue::{AppPort, ConnectionEvent, ConnectionId, Credit, Delivery};
use stoq::tls::{ClientAuth, Identity, ServerTls, Trust, server_config};

/// The queue that this application takes.
const QUEUE: u64 = 7;

#[derive(Default)]
struct Uppercase {
    peers: HashMap<ConnectionId, Credit>,
    /// An answer for which the ring or the peer's credit has no room. The application receives no message meanwhile, which stops a peer
    /// that sends faster than it reads.
    outbox: Outbox,
}

impl Application for Uppercase {
    fn poll(&mut self, _now: Instant, port: &mut AppPort) -> bool {
        let mut worked = false;
        while let Some(received) = self.outbox.receive(port) {
            worked = true;
            let Received::Other(Delivery::Connection(connection, event)) = received else { continue };
            match event {
                ConnectionEvent::Connected { node, remote, credit, .. } => {
                    println!("{remote} is {}", node.map_or("nobody".into(), |id| id.to_string()));
                    self.peers.insert(connection, credit);
                }
                ConnectionEvent::Message { payload, queue } => {
                    let Some(credit) = self.peers.get(&connection) else { continue };
                    let text = payload.to_bytes().to_ascii_uppercase();
                    self.outbox.answer_message(port, connection, credit, queue, text.into());
                }
                ConnectionEvent::Closed { .. } => {
                    self.peers.remove(&connection);
                }
                ConnectionEvent::Have { .. } | ConnectionEvent::MessagesStopped { .. } => {}
            }
        }
        worked
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [certificate, key, client] = arguments.as_slice() else {
        anyhow::bail!("usage: uppercase CERTIFICATE KEY CLIENT_NODE_ID");
    };
    let identity = Identity::load(Path::new(certificate), Path::new(key))?;
    let trust = Trust::pinned([client.parse()?])?;
    let network = KernelConfig { listen: vec!["127.0.0.1:4433".parse()?], ..KernelConfig::default() };
    let opened = OpenNetwork::open(&NetworkConfig::KernelUdp(network), 1)?;
    let config = NodeConfig {
        server: Some(server_config(&ServerTls::new(identity, ClientAuth::Required(trust)))?),
        thread_setup: opened.thread_setup(),
        ..NodeConfig::default()
    };
    let host = ApplicationHost::Node(Placement::Worker, Box::new(|_worker| Box::new(Uppercase::default())));
    let node = opened.start_node(&config, vec![Hosted::new("uppercase", vec![QUEUE], host)])?;
    println!("serving on {}", node.networks()[0]);
    loop {
        std::thread::park_timeout(Duration::from_secs(3600));
    }
}
