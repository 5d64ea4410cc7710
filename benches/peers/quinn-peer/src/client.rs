//! The client: sends and measures.

use crate::{Client, setup};
use bytes::Bytes;
use peer_common::socket::any_for;
use peer_common::{CHUNK_BYTES, report};
use quinn::{ClientConfig, Connection};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Round trips that the summary leaves out: caches and windows warm up in them.
const WARM_UP: usize = 1000;

pub(crate) async fn run(client: Client) -> anyhow::Result<()> {
    let Client { common: args, round_trips: trips, size, sleep } = client;
    let certificate = peer_common::identity::read(&args.cert)?;
    let tls = setup::client_tls(&certificate)?;
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(setup::transport(args.tuning)?);
    let (endpoint, buffers) = setup::endpoint(any_for(args.connect), None, args.tuning)?;
    let connection = endpoint.connect_with(config, args.connect, peer_common::SERVER_NAME)?.await?;
    let result = match trips {
        Some(count) => round_trips(&connection, count, size).await?,
        None => bulk(&connection, args.bytes).await?,
    };
    let stats = connection.stats();
    connection.close(0u32.into(), b"");
    endpoint.wait_idle().await;
    let common = json!({
        "network": "kernel-udp", "cipher": peer_common::CIPHER, "key_exchange": peer_common::KEY_EXCHANGE,
        "busy": sleep.busy, "udp_payload_bytes": args.tuning.mtu, "receive_buffer_bytes": buffers[0],
        "send_buffer_bytes": buffers[1], "datagrams_sent": stats.udp_tx.datagrams, "send_calls": stats.udp_tx.ios,
        "packets_lost": stats.path.lost_packets,
    });
    report::print(result, common, args.json);
    Ok(())
}

/// Goodput: the bytes that the server counted, over the time from the first send to its answer.
async fn bulk(connection: &Connection, bytes: u64) -> anyhow::Result<Value> {
    let chunk = Bytes::from(vec![7; CHUNK_BYTES]);
    let mut stream = connection.open_uni().await?;
    let started = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let piece = chunk.slice(..left.min(CHUNK_BYTES as u64) as usize);
        left -= piece.len() as u64;
        stream.write_chunk(piece).await?;
    }
    stream.finish()?;
    let mut answer = connection.accept_uni().await?;
    let mut counted = [0; 8];
    answer.read_exact(&mut counted).await?;
    report::bulk(bytes, u64::from_be_bytes(counted), started.elapsed())
}

async fn round_trips(connection: &Connection, count: usize, size: usize) -> anyhow::Result<Value> {
    anyhow::ensure!(count > 0 && size > 0, "at least one round trip of one byte");
    let (mut send, mut receive) = connection.open_bi().await?;
    let message = Bytes::from(vec![5; size]);
    let mut answer = vec![0; size];
    let mut trips = Vec::with_capacity(count);
    for trip in 0..WARM_UP + count {
        let started = Instant::now();
        send.write_chunk(message.clone()).await?;
        receive.read_exact(&mut answer).await?;
        if trip >= WARM_UP {
            trips.push(started.elapsed());
        }
    }
    send.finish()?;
    // The server finishes too, and then nothing is cut short.
    receive.read_to_end(0).await?;
    trips.sort_unstable();
    let at = |quantile: f64| us(trips[((count - 1) as f64 * quantile) as usize]);
    Ok(json!({
        "operation": "ping", "round_trips": count, "warm_up": WARM_UP, "bytes": size, "min_us": at(0.0), "p50_us": at(0.5),
        "p99_us": at(0.99), "p999_us": at(0.999), "max_us": at(1.0),
    }))
}

fn us(trip: Duration) -> f64 {
    trip.as_nanos() as f64 / 1e3
}
