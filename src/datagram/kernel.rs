//! Temporary.
use super::*;
use std::net::UdpSocket;
/// t
pub struct KernelUdpConfig {
    /// r
    pub reuse_port: bool,
    /// b
    pub buffer_bytes: usize,
}
/// t
pub struct KernelUdp {
    s: Vec<UdpSocket>,
    buf: Vec<u8>,
}
impl KernelUdp {
    /// b
    pub fn bind(a: &[SocketAddr], _c: KernelUdpConfig) -> std::io::Result<Self> {
        let mut s = vec![];
        for a in a.iter().take(1) {
            let x = UdpSocket::bind(a)?;
            x.set_nonblocking(true)?;
            s.push(x);
        }
        Ok(Self { s, buf: vec![0; 65536] })
    }
}
impl Network for KernelUdp {
    fn receive(&mut self, _: Instant, _: &Counters, mut deliver: impl FnMut(Datagram<'_>)) -> usize {
        let mut n = 0;
        while n < 64 {
            let Ok((l, a)) = self.s[0].recv_from(&mut self.buf) else { break };
            n += 1;
            deliver(Datagram { remote: a, local_ip: None, ecn: None, payload: &self.buf[..l] });
        }
        n
    }
    fn can_send(&self) -> bool {
        true
    }
    fn send(&mut self, _: Instant, _: &Counters, t: &Transmit, c: &[u8]) {
        for s in c.chunks(t.segment_size.unwrap_or(t.size)) {
            let _ = self.s[0].send_to(s, t.destination);
        }
    }
    fn flush(&mut self, _: Instant, _: &Counters) -> usize {
        0
    }
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    fn handle_timeout(&mut self, _: Instant, _: &Counters) {}
    fn info(&self) -> NetworkInfo {
        NetworkInfo { kind: NetworkKind::KernelUdp, driver: "udp".into(), device: "t".into(), mtu: 1500, local: vec![] }
    }
    fn link_up(&self) -> bool {
        true
    }
}
