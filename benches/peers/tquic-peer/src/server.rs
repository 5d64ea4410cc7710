//! The server: counts and discards.

use crate::setup::{self, Driver};
use bytes::Bytes;
use peer_common::cli::ServerArgs;
use peer_common::identity::Identity;
use peer_common::report;
use std::collections::HashMap;
use tquic::{Connection, TlsConfig, TransportHandler};

/// Bytes read from a stream at once.
const READ_BYTES: usize = 1 << 16;

pub(crate) fn run(args: ServerArgs) -> anyhow::Result<()> {
    let identity = Identity::made()?;
    let key = identity.write_key(&args.cert)?;
    identity.write(&args.cert)?;
    let mut tls = TlsConfig::new()?;
    tls.set_certificate_file(&args.cert.to_string_lossy())?;
    tls.set_private_key_file(&key.to_string_lossy())?;
    let config = setup::config(args.tuning, tls)?;
    let counter = Counter { totals: HashMap::new(), buffer: vec![0; READ_BYTES] };
    let mut driver = Driver::new(args.listen, args.tuning, config, true, Box::new(counter))?;
    report::ready(args.listen, driver.buffers);
    loop {
        driver.turn(true)?;
    }
}

/// Reads streams in order, discards their bytes, and answers with their number once a stream has ended.
struct Counter {
    /// By connection.
    totals: HashMap<Option<u64>, u64>,
    buffer: Vec<u8>,
}

impl Counter {
    fn count(&mut self, connection: &mut Connection, stream: u64) -> tquic::Result<()> {
        let total = self.totals.entry(connection.index()).or_default();
        loop {
            match connection.stream_read(stream, &mut self.buffer) {
                Ok((read, ended)) => {
                    *total += read as u64;
                    if ended {
                        let answer = connection.stream_uni_new(0, false)?;
                        connection.stream_write(
                            answer,
                            Bytes::copy_from_slice(&total.to_be_bytes()),
                            true,
                        )?;
                        return Ok(());
                    }
                }
                Err(tquic::Error::Done) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

impl TransportHandler for Counter {
    fn on_conn_created(&mut self, _: &mut Connection) {}

    fn on_conn_established(&mut self, _: &mut Connection) {}

    fn on_conn_closed(&mut self, connection: &mut Connection) {
        self.totals.remove(&connection.index());
    }

    fn on_stream_created(&mut self, _: &mut Connection, _: u64) {}

    fn on_stream_readable(&mut self, connection: &mut Connection, stream: u64) {
        if let Err(error) = self.count(connection, stream) {
            eprintln!("{}: {error}", connection.trace_id());
        }
    }

    fn on_stream_writable(&mut self, _: &mut Connection, _: u64) {}

    fn on_stream_closed(&mut self, _: &mut Connection, _: u64) {}

    fn on_new_token(&mut self, _: &mut Connection, _: Vec<u8>) {}
}
