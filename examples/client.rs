//! A client under tokio: puts a file, gets it back by two tasks at once, and prints the bytes that arrived.
//!
//!     cargo run -p stoq --example client -- CERTIFICATE KEY GATEWAY_NODE_ID GATEWAY_ADDRESS FILE

#![allow(clippy::print_stdout, reason = "it prints for the user who runs it by hand")]

use std::ops::Range;
use std::path::Path;
use stoq::client::{Client, FetchOptions, Kept, Peer, Prepared};
use stoq::token::{Ranges, Token};

/// Fetches these bytes of a payload, as whole groups of 16 KiB. Returns their number.
async fn fetch(gateway: Peer, token: Token, bytes: Range<u64>) -> anyhow::Result<u64> {
    let options = FetchOptions { ranges: Ranges::covering(bytes)?, ..FetchOptions::default() };
    let mut fetch = gateway.fetch_with(token, options).await?;
    Ok(tokio::io::copy_buf(&mut fetch, &mut tokio::io::sink()).await?)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [certificate, key, node_id, address, file] = arguments.as_slice() else {
        anyhow::bail!("usage: client CERTIFICATE KEY GATEWAY_NODE_ID GATEWAY_ADDRESS FILE");
    };
    let client = Client::builder().identity_files(certificate, key).trust_node(node_id.parse()?).start()?;
    let gateway = client.connect(address.as_str()).await?;
    let payload = Prepared::file(Path::new(file))?;
    anyhow::ensure!(payload.length >= 2, "a file of two bytes at least can be got in two halves");
    match gateway.put(&payload).await? {
        Kept::Now => println!("{} is kept now", payload.token),
        Kept::Already => println!("{} was kept already", payload.token),
    }
    let (token, middle, end) = (payload.token, payload.length / 2, payload.length);
    let first = tokio::spawn(fetch(gateway.clone(), token, 0..middle));
    let second = tokio::spawn(fetch(gateway, token, middle..end));
    println!("{} and {} bytes came, every one checked", first.await??, second.await??);
    Ok(())
}
