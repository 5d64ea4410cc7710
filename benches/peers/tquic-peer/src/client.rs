//! The client: sends and measures.

use crate::setup::{self, Driver};
use bytes::Bytes;
use peer_common::cli::ClientArgs;
use peer_common::socket::any_for;
use peer_common::{CHUNK_BYTES, report};
use serde_json::json;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;
use tquic::{Connection, TlsConfig, TransportHandler};

pub(crate) fn run(args: ClientArgs) -> anyhow::Result<()> {
    peer_common::identity::read(&args.cert)?;
    let mut tls = TlsConfig::new()?;
    tls.set_ca_certs(&args.cert.to_string_lossy())?;
    tls.set_verify(true);
    let config = setup::config(args.tuning, tls)?;
    let progress = Rc::new(RefCell::new(Progress::default()));
    let sender = Sender {
        progress: Rc::clone(&progress),
        chunk: vec![7; CHUNK_BYTES].into(),
        left: args.bytes,
        finished: false,
    };
    let mut driver = Driver::new(any_for(args.connect), args.tuning, config, false, Box::new(sender))?;
    let name = Some(peer_common::SERVER_NAME);
    driver.endpoint.connect(driver.local, args.connect, name, None, None, None)?;
    let elapsed = loop {
        driver.turn(true)?;
        let mut progress = progress.borrow_mut();
        anyhow::ensure!(!progress.closed, "the connection was closed");
        if let Some(error) = progress.failed.take() {
            return Err(error.into());
        }
        if progress.answered == progress.answer.len() {
            let Some(started) = progress.started else { anyhow::bail!("an answer to nothing") };
            break started.elapsed();
        }
    };
    let progress = progress.borrow();
    let result = report::bulk(args.bytes, u64::from_be_bytes(progress.answer), elapsed)?;
    let (datagrams, calls) = driver.sent();
    let common = json!({
        "network": "kernel-udp", "cipher": peer_common::CIPHER, "key_exchange": peer_common::KEY_EXCHANGE,
        "udp_payload_bytes": args.tuning.mtu, "receive_buffer_bytes": driver.buffers[0],
        "send_buffer_bytes": driver.buffers[1], "datagrams_sent": datagrams, "send_calls": calls,
        "packets_lost": progress.lost,
    });
    report::print(result, common, args.json);
    Ok(())
}

/// The state of the connection that the loop reads.
#[derive(Default)]
struct Progress {
    started: Option<Instant>,
    answer: [u8; 8],
    answered: usize,
    lost: u64,
    failed: Option<tquic::Error>,
    closed: bool,
}

/// Sends the bytes on one stream and takes the answer.
struct Sender {
    progress: Rc<RefCell<Progress>>,
    chunk: Bytes,
    left: u64,
    finished: bool,
}

impl Sender {
    /// Hands over as much as the connection takes.
    fn write(&mut self, connection: &mut Connection, stream: u64) -> tquic::Result<()> {
        while !self.finished {
            let piece = self.chunk.slice(..self.left.min(CHUNK_BYTES as u64) as usize);
            let (len, last) = (piece.len(), piece.len() as u64 == self.left);
            let written = match connection.stream_write(stream, piece, last) {
                Ok(written) => written,
                Err(tquic::Error::Done) => return Ok(()),
                Err(error) => return Err(error),
            };
            self.left -= written as u64;
            self.finished = last && self.left == 0;
            if written < len {
                return Ok(());
            }
        }
        connection.stream_want_write(stream, false)
    }

    fn begin(&mut self, connection: &mut Connection) -> tquic::Result<()> {
        self.progress.borrow_mut().started = Some(Instant::now());
        let stream = connection.stream_uni_new(0, false)?;
        self.write(connection, stream)
    }

    fn read(&mut self, connection: &mut Connection, stream: u64) -> tquic::Result<()> {
        let mut progress = self.progress.borrow_mut();
        let progress = &mut *progress;
        match connection.stream_read(stream, &mut progress.answer[progress.answered..]) {
            Ok((read, _)) => progress.answered += read,
            Err(tquic::Error::Done) => {}
            Err(error) => return Err(error),
        }
        progress.lost = connection.stats().lost_count;
        Ok(())
    }

    fn keep(&mut self, done: tquic::Result<()>) {
        if let Err(error) = done {
            self.progress.borrow_mut().failed = Some(error);
        }
    }
}

impl TransportHandler for Sender {
    fn on_conn_created(&mut self, _: &mut Connection) {}

    fn on_conn_established(&mut self, connection: &mut Connection) {
        let done = self.begin(connection);
        self.keep(done);
    }

    fn on_conn_closed(&mut self, _: &mut Connection) {
        self.progress.borrow_mut().closed = true;
    }

    fn on_stream_created(&mut self, _: &mut Connection, _: u64) {}

    fn on_stream_readable(&mut self, connection: &mut Connection, stream: u64) {
        let done = self.read(connection, stream);
        self.keep(done);
    }

    fn on_stream_writable(&mut self, connection: &mut Connection, stream: u64) {
        let done = self.write(connection, stream);
        self.keep(done);
    }

    fn on_stream_closed(&mut self, _: &mut Connection, _: u64) {}

    fn on_new_token(&mut self, _: &mut Connection, _: Vec<u8>) {}
}
