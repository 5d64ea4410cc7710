//! A client of one's own under tokio: puts a file, gets it back from two tasks at once, and says what came.
//!
//!     cargo run -p stoq --example client -- CERTIFICATE KEY GATEWAY_NODE_ID GATEWAY_ADDRESS FILE

#![allow(clippy::print_stdout, reason = "it prints for the user who runs it by hand")]

use std::path::Path;
use stoq::client::{Client, ConnectOptions, FetchOptions, Kept, Peer, Prepared, PutOptions};
use stoq::datagram::kernel::{KernelUdp, KernelUdpConfig};
use stoq::node::NodeConfig;
use stoq::tls::{ClientTls, Identity, Trust, client_config};
use stoq::token::{Ranges, Token};

/// Fetches these bytes of a payload; gives how many came, whole groups of 16 KiB.
async fn fetch(gateway: Peer, token: Token, bytes: std::ops::Range<u64>) -> anyhow::Result<usize> {
    let options = FetchOptions { ranges: Ranges::covering(bytes)?, ..FetchOptions::default() };
    let mut fetch = gateway.fetch(token, options).await?;
    let mut came = 0;
    while let Some(piece) = fetch.next().await {
        came += piece?.data.len();
    }
    Ok(came)
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [certificate, key, node_id, address, file] = arguments.as_slice() else {
        anyhow::bail!("usage: client CERTIFICATE KEY GATEWAY_NODE_ID GATEWAY_ADDRESS FILE");
    };
    let identity = Identity::load(Path::new(certificate), Path::new(key))?;
    let tls = ClientTls::new(Some(identity), Trust::pinned([node_id.parse()?])?);
    let config = NodeConfig { client: Some(client_config(&tls)?), ..NodeConfig::default() };
    let listen = ["0.0.0.0:0".parse()?, "[::]:0".parse()?];
    let network = KernelUdp::bind(&listen, KernelUdpConfig::default())?;
    let payload = Prepared::file(Path::new(file))?;
    anyhow::ensure!(payload.length >= 2, "a file of two bytes at least can be got in two halves");

    tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
        let client = Client::start(vec![network], &config)?;
        let gateway = client.connect(&**address, ConnectOptions::default()).await?;
        match gateway.put(&payload, PutOptions::default(), |_sent| {}).await? {
            Kept::Now => println!("{} is kept now", payload.token),
            Kept::Already => println!("{} was kept already", payload.token),
        }
        let (token, middle, end) = (payload.token, payload.length / 2, payload.length);
        let first = tokio::spawn(fetch(gateway.clone(), token, 0..middle));
        let second = tokio::spawn(fetch(gateway, token, middle..end));
        println!("{} and {} bytes came, every one checked", first.await??, second.await??);
        client.stop();
        Ok(())
    })
}
