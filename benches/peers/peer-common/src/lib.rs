//! The common part of all peers: command line, certificate, socket and the form of a result.

pub mod cli;
pub mod identity;
pub mod report;
pub mod socket;

/// The name in the certificate.
pub const SERVER_NAME: &str = "peer.test";
/// The only cipher suite in use. A stack without a choice of suites prefers it by default.
pub const CIPHER: &str = "TLS_AES_128_GCM_SHA256";
/// The key exchange. STOQ's is post-quantum; it costs the handshake, not the bytes after it.
pub const KEY_EXCHANGE: &str = "X25519";
/// The application protocol of both sides, for stacks that require one (ALPN).
pub const ALPN: &[u8] = b"peer";

/// Bytes handed to a stream at once.
pub const CHUNK_BYTES: usize = 1 << 20;
