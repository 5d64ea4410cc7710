//! The client: sends and measures.

use crate::setup::{self, Counters};
use anyhow::Context;
use bytes::Bytes;
use peer_common::cli::ClientArgs;
use peer_common::socket::any_for;
use peer_common::{CHUNK_BYTES, report};
use s2n_quic::client::{Client, Connect};
use s2n_quic::connection::Connection;
use s2n_quic::provider::tls::s2n_tls;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::Instant;

pub(crate) async fn run(args: ClientArgs) -> anyhow::Result<()> {
    let certificate = peer_common::identity::read(&args.cert)?;
    let (io, buffers) = setup::io(any_for(args.connect), args.tuning)?;
    let counters = Counters::default();
    let tls = s2n_tls::Client::builder()
        .with_empty_trust_store()?
        .with_certificate(&certificate[..])?
        .with_application_protocols([peer_common::ALPN])?
        .build()?;
    let client = Client::builder()
        .with_tls(tls)?
        .with_io(io)?
        .with_limits(setup::limits(args.tuning)?)?
        .with_congestion_controller(setup::congestion(args.tuning))?
        .with_event(counters.clone())?
        .start()?;
    let server = Connect::new(args.connect).with_server_name(peer_common::SERVER_NAME);
    let connection = client.connect(server).await?;
    let result = bulk(connection, args.bytes).await?;
    let common = json!({
        "network": "kernel-udp", "cipher": counters.cipher.get(), "key_exchange": counters.key_exchange.get(),
        "udp_payload_bytes": args.tuning.mtu, "receive_buffer_bytes": buffers[0], "send_buffer_bytes": buffers[1],
        "datagrams_sent": counters.datagrams_sent.load(Ordering::Relaxed),
        "send_calls": counters.send_calls.load(Ordering::Relaxed),
        "packets_lost": counters.packets_lost.load(Ordering::Relaxed),
    });
    report::print(result, common, args.json);
    Ok(())
}

async fn bulk(mut connection: Connection, bytes: u64) -> anyhow::Result<Value> {
    let chunk = Bytes::from(vec![7; CHUNK_BYTES]);
    let mut stream = connection.open_send_stream().await?;
    let started = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let piece = chunk.slice(..left.min(CHUNK_BYTES as u64) as usize);
        left -= piece.len() as u64;
        stream.send(piece).await?;
    }
    stream.finish()?;
    let answer = connection.accept_receive_stream().await?;
    let mut answer = answer.context("closed without an answer")?;
    let mut counted = Vec::new();
    while let Some(piece) = answer.receive().await? {
        counted.extend_from_slice(&piece);
    }
    let elapsed = started.elapsed();
    let counted = counted.try_into().ok().context("the answer is no count")?;
    report::bulk(bytes, u64::from_be_bytes(counted), elapsed)
}
