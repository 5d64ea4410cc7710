//! The near end: sends and measures.

use crate::{ClientArgs, setup};
use anyhow::Context;
use bytes::Bytes;
use quinn::{ClientConfig, Connection};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes handed to the stream at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Round trips kept out of the summary: caches and windows warm up in them.
const WARM_UP: usize = 1000;

pub(crate) async fn run(args: ClientArgs) -> anyhow::Result<()> {
    let read = || format!("cannot read {}; start the server first", args.cert.display());
    let certificate = std::fs::read(&args.cert).with_context(read)?;
    let tls = setup::client_tls(certificate.into())?;
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(setup::transport(args.tuning));
    let any: SocketAddr = match args.connect {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let (endpoint, buffers) = setup::endpoint(any, None, args.tuning)?;
    let connection = endpoint.connect_with(config, args.connect, setup::SERVER_NAME)?.await?;
    let mut result = match args.round_trips {
        Some(count) => round_trips(&connection, count, args.size).await?,
        None => bulk(&connection, args.bytes).await?,
    };
    let stats = connection.stats();
    connection.close(0u32.into(), b"");
    endpoint.wait_idle().await;
    let common = json!({
        "network": "kernel-udp", "cipher": setup::CIPHER, "key_exchange": setup::KEY_EXCHANGE,
        "busy": args.tuning.busy, "udp_payload_bytes": args.tuning.mtu, "receive_buffer_bytes": buffers[0], "send_buffer_bytes": buffers[1],
        "datagrams_sent": stats.udp_tx.datagrams, "send_calls": stats.udp_tx.ios,
        "packets_lost": stats.path.lost_packets,
    });
    if let (Value::Object(result), Value::Object(common)) = (&mut result, common) {
        result.extend(common);
    }
    if args.json {
        println!("{result}");
    } else {
        println!("{result:#}");
    }
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
    let elapsed = started.elapsed().as_secs_f64();
    let counted = u64::from_be_bytes(counted);
    anyhow::ensure!(counted == bytes, "the server counted {counted} bytes of {bytes}");
    Ok(json!({
        "operation": "bulk", "bytes": counted, "seconds": elapsed, "gbit_per_s": counted as f64 * 8.0 / elapsed / 1e9,
    }))
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
