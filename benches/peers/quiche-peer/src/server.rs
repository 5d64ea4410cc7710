//! The server: counts and discards.

use crate::setup::{self, Burst, COUNT_STREAM, Connection, Shared};
use peer_common::cli::ServerArgs;
use peer_common::identity::Identity;
use peer_common::report::{self, Meter};
use peer_common::socket::{Inbox, Socket};
use quiche::{ConnectionId, Header, RecvInfo, Type};
use std::collections::HashMap;
use std::net::SocketAddr;

/// A connection and the bytes of its stream so far.
struct Served {
    connection: Connection,
    total: u64,
    meter: Meter,
    burst: Burst,
}

pub(crate) fn run(args: ServerArgs, bbr2: bool) -> anyhow::Result<()> {
    let identity = Identity::made()?;
    let key = identity.write_key(&args.cert)?;
    let mut config = setup::config(args.tuning, bbr2)?;
    let mut socket = Socket::new(args.listen, args.tuning)?;
    identity.write(&args.cert)?;
    config.load_cert_chain_from_pem_file(&args.cert.to_string_lossy())?;
    config.load_priv_key_from_pem_file(&key.to_string_lossy())?;
    report::ready(args.listen, socket.buffers);
    let mut inbox = Inbox::default();
    // By address: no peer migrates here.
    let mut served: HashMap<SocketAddr, Served> = HashMap::new();
    loop {
        let local = socket.local;
        let received = socket.receive(&mut inbox, |datagram, from| {
            if !served.contains_key(&from)
                && let Some(connection) = accepted(datagram, local, from, &mut config)
            {
                let meter = Meter::new(args.count_every_ms);
                served.insert(from, Served { connection, total: 0, meter, burst: Burst::new(bbr2) });
            }
            if let Some(served) = served.get_mut(&from)
                && let Err(error) = served.connection.recv(datagram, RecvInfo { from, to: local })
            {
                eprintln!("{from}: {error}");
            }
        })?;
        let mut more = false;
        for (from, served) in &mut served {
            if let Err(error) = served.count() {
                eprintln!("{from}: {error}");
            }
            if served.connection.timeout().is_some_and(|left| left.is_zero()) {
                served.connection.on_timeout();
            }
            more |= served.burst.send(&mut served.connection, &mut socket)?;
        }
        served.retain(|_, served| !served.connection.is_closed());
        if !received && !more {
            let timeouts = served.values().flat_map(|one| [one.connection.timeout(), one.burst.due_in()]);
            socket.wait_readable(timeouts.flatten().min())?;
        }
    }
}

/// A new connection if a datagram begins one.
fn accepted(
    datagram: &mut [u8],
    local: SocketAddr,
    from: SocketAddr,
    config: &mut quiche::Config,
) -> Option<Connection> {
    let header = Header::from_slice(datagram, quiche::MAX_CONN_ID_LEN).ok()?;
    if header.ty != Type::Initial {
        return None;
    }
    let id = setup::connection_id();
    let id = ConnectionId::from_ref(&id);
    quiche::accept_with_buf_factory::<Shared>(&id, None, local, from, config)
        .inspect_err(|error| eprintln!("no connection: {error}"))
        .ok()
}

impl Served {
    /// Reads the bytes in order, discards them, and answers with their number once the stream has ended.
    fn count(&mut self) -> quiche::Result<()> {
        while let Some(stream) = self.connection.stream_readable_next() {
            loop {
                match self.connection.stream_discard(stream, usize::MAX) {
                    Ok((read, ended)) => {
                        self.total += read as u64;
                        self.meter.add(read as u64);
                        if ended {
                            self.connection.stream_send(COUNT_STREAM, &self.total.to_be_bytes(), true)?;
                            break;
                        }
                    }
                    Err(quiche::Error::Done) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}
