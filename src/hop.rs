//! placeholder
use crate::record::{ErrorCode, Hop};
use crate::tls::NodeId;
use std::time::Instant;
#[derive(Debug)]
pub struct Hops;
pub enum Decision { Deliver, Forward { next: NodeId, hop: Hop } }
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct Refusal;
impl Refusal { pub fn code(&self) -> ErrorCode { ErrorCode::Loop } }
impl Hops { pub fn judge(&self, _h: &Hop, _p: Option<NodeId>, _n: Instant) -> Result<Decision, Refusal> { Err(Refusal) } }
