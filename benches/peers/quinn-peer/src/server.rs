//! The server: counts and discards, or sends back.

use crate::setup;
use bytes::Bytes;
use peer_common::cli::ServerArgs;
use peer_common::identity::Identity;
use peer_common::report::{self, Meter};
use quinn::{Connection, RecvStream, SendStream, ServerConfig};
use std::sync::Arc;

/// Pieces taken from a stream at once.
const PIECES_MAX: usize = 64;

pub(crate) async fn run(args: ServerArgs) -> anyhow::Result<()> {
    let identity = Identity::made()?;
    let tls = setup::server_tls(&identity)?;
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(setup::transport(args.tuning)?);
    let (endpoint, buffers) = setup::endpoint(args.listen, Some(config), args.tuning)?;
    identity.write(&args.cert)?;
    report::ready(args.listen, buffers);
    while let Some(incoming) = endpoint.accept().await {
        let meter = Meter::new(args.count_every_ms);
        tokio::spawn(async move {
            match incoming.await {
                Ok(connection) => serve(connection, meter).await,
                Err(error) => eprintln!("no connection: {error}"),
            }
        });
    }
    Ok(())
}

async fn serve(connection: Connection, mut meter: Meter) {
    loop {
        let served = tokio::select! {
            stream = connection.accept_uni() => match stream {
                Ok(stream) => count(&connection, stream, &mut meter).await,
                Err(_) => return,
            },
            streams = connection.accept_bi() => match streams {
                Ok((send, receive)) => send_back(send, receive).await,
                Err(_) => return,
            },
        };
        if let Err(error) = served {
            eprintln!("{}: {error:#}", connection.remote_address());
        }
    }
}

/// Reads the stream to its end in order, discards the bytes, and answers with their number.
async fn count(connection: &Connection, mut stream: RecvStream, meter: &mut Meter) -> anyhow::Result<()> {
    let mut pieces = [const { Bytes::new() }; PIECES_MAX];
    let mut total = 0u64;
    while let Some(read) = stream.read_chunks(&mut pieces).await? {
        let before = total;
        for piece in &mut pieces[..read] {
            total += std::mem::take(piece).len() as u64;
        }
        meter.add(total - before);
    }
    let mut answer = connection.open_uni().await?;
    answer.write_all(&total.to_be_bytes()).await?;
    answer.finish()?;
    Ok(())
}

async fn send_back(mut send: SendStream, mut receive: RecvStream) -> anyhow::Result<()> {
    while let Some(chunk) = receive.read_chunk(usize::MAX, true).await? {
        send.write_chunk(chunk.bytes).await?;
    }
    send.finish()?;
    Ok(())
}
