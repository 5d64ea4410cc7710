//! The server: counts and discards.

use crate::setup;
use bytes::Bytes;
use peer_common::cli::ServerArgs;
use peer_common::identity::Identity;
use peer_common::report::{self, Meter};
use s2n_quic::Server;
use s2n_quic::connection::{Connection, Handle};
use s2n_quic::provider::tls::s2n_tls;
use s2n_quic::stream::ReceiveStream;

/// Pieces taken from a stream at once.
const PIECES_MAX: usize = 64;

pub(crate) async fn run(args: ServerArgs) -> anyhow::Result<()> {
    let identity = Identity::made()?;
    let (io, buffers) = setup::io(args.listen, args.tuning)?;
    let tls = s2n_tls::Server::builder()
        .with_certificate(&identity.certificate[..], &identity.key[..])?
        .with_application_protocols([peer_common::ALPN])?
        .build()?;
    let mut server = Server::builder()
        .with_tls(tls)?
        .with_io(io)?
        .with_limits(setup::limits(args.tuning)?)?
        .with_congestion_controller(setup::congestion(args.tuning))?
        .start()?;
    identity.write(&args.cert)?;
    report::ready(args.listen, buffers);
    while let Some(connection) = server.accept().await {
        tokio::spawn(serve(connection, Meter::new(args.count_every_ms)));
    }
    Ok(())
}

async fn serve(connection: Connection, mut meter: Meter) {
    let (handle, mut streams) = connection.split();
    while let Ok(Some(stream)) = streams.accept_receive_stream().await {
        if let Err(error) = count(handle.clone(), stream, &mut meter).await {
            eprintln!("{error:#}");
        }
    }
}

/// Reads the stream to its end in order, discards the bytes, and answers with their number.
async fn count(mut handle: Handle, mut stream: ReceiveStream, meter: &mut Meter) -> anyhow::Result<()> {
    let mut pieces = [const { Bytes::new() }; PIECES_MAX];
    let mut total = 0u64;
    loop {
        let (read, open) = stream.receive_vectored(&mut pieces).await?;
        let before = total;
        for piece in &mut pieces[..read] {
            total += std::mem::take(piece).len() as u64;
        }
        meter.add(total - before);
        if !open {
            break;
        }
    }
    let mut answer = handle.open_send_stream().await?;
    answer.send(Bytes::copy_from_slice(&total.to_be_bytes())).await?;
    answer.close().await?;
    Ok(())
}
