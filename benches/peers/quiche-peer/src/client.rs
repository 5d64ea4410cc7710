//! The client: sends and measures.

use crate::setup::{self, Burst, COUNT_STREAM, Connection, DATA_STREAM, Shared};
use bytes::Bytes;
use peer_common::cli::ClientArgs;
use peer_common::socket::{Inbox, Socket, any_for};
use peer_common::{CHUNK_BYTES, report};
use quiche::{ConnectionId, RecvInfo};
use serde_json::json;
use std::time::Instant;

pub(crate) fn run(args: ClientArgs, bbr2: bool) -> anyhow::Result<()> {
    peer_common::identity::read(&args.cert)?;
    let mut config = setup::config(args.tuning, bbr2)?;
    config.verify_peer(true);
    config.load_verify_locations_from_file(&args.cert.to_string_lossy())?;
    let mut client = Client::new(&args, config, bbr2)?;
    while !client.connection.is_established() {
        client.turn(true)?;
    }
    let started = Instant::now();
    let counted = client.bulk(args.bytes)?;
    let result = report::bulk(args.bytes, counted, started.elapsed())?;
    client.connection.close(true, 0, b"")?;
    client.burst.send(&mut client.connection, &mut client.socket)?;
    let common = json!({
        "network": "kernel-udp", "cipher": peer_common::CIPHER,
        "key_exchange": peer_common::KEY_EXCHANGE, "udp_payload_bytes": args.tuning.mtu,
        "receive_buffer_bytes": client.socket.buffers[0], "send_buffer_bytes": client.socket.buffers[1],
        "datagrams_sent": client.socket.datagrams_sent, "send_calls": client.socket.send_calls,
        "packets_lost": client.connection.stats().lost,
    });
    report::print(result, common, args.json);
    Ok(())
}

struct Client {
    connection: Connection,
    socket: Socket,
    inbox: Inbox,
    burst: Burst,
}

impl Client {
    fn new(args: &ClientArgs, mut config: quiche::Config, bbr2: bool) -> anyhow::Result<Self> {
        let socket = Socket::new(any_for(args.connect), args.tuning)?;
        let id = setup::connection_id();
        let id = ConnectionId::from_ref(&id);
        let name = Some(peer_common::SERVER_NAME);
        let connection = quiche::connect_with_buffer_factory::<Shared>(
            name,
            &id,
            socket.local,
            args.connect,
            &mut config,
        )?;
        Ok(Self { connection, socket, inbox: Inbox::default(), burst: Burst::new(bbr2) })
    }

    /// Sends the bytes. Returns the server's count.
    fn bulk(&mut self, bytes: u64) -> anyhow::Result<u64> {
        let chunk = Bytes::from(vec![7; CHUNK_BYTES]);
        let mut left = bytes;
        let mut finished = false;
        let mut answer = [0; 8];
        let mut answered = 0;
        while answered < answer.len() {
            while !finished {
                let piece = chunk.slice(..left.min(CHUNK_BYTES as u64) as usize);
                let last = piece.len() as u64 == left;
                let written = match self.connection.stream_send_zc(DATA_STREAM, piece, last) {
                    Ok((written, _)) => written as u64,
                    Err(quiche::Error::Done) => break,
                    Err(error) => return Err(error.into()),
                };
                left -= written;
                finished = last && left == 0;
                if written == 0 {
                    break;
                }
            }
            if self.connection.stream_readable(COUNT_STREAM) {
                let (read, _) = self.connection.stream_recv(COUNT_STREAM, &mut answer[answered..])?;
                answered += read;
            }
            self.turn(answered < answer.len())?;
        }
        Ok(u64::from_be_bytes(answer))
    }

    /// One turn of the loop: sends, receives, and sleeps when there was neither and `may_sleep`.
    fn turn(&mut self, may_sleep: bool) -> anyhow::Result<()> {
        let more = self.burst.send(&mut self.connection, &mut self.socket)?;
        let (connection, to) = (&mut self.connection, self.socket.local);
        let mut result = Ok(0);
        let received = self.socket.receive(&mut self.inbox, |datagram, from| {
            let got = connection.recv(datagram, RecvInfo { from, to });
            if got.is_err() {
                result = got;
            }
        })?;
        result?;
        anyhow::ensure!(!self.connection.is_closed(), "closed: {:?}", self.connection.peer_error());
        if !received && !more && may_sleep {
            let timeouts = [self.connection.timeout(), self.burst.due_in()];
            self.socket.wait_readable(timeouts.into_iter().flatten().min())?;
        }
        if self.connection.timeout().is_some_and(|left| left.is_zero()) {
            self.connection.on_timeout();
        }
        Ok(())
    }
}
