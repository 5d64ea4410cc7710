//! Applications that measure a gateway from its client's side: the round trip of a small message, the goodput of messages, of
//! payloads put and of payloads fetched, over one connection or many. They run on the worker's own thread, so that they measure the
//! transport and not the scheduler.

mod blast;
pub mod inspect;
mod links;
pub mod path;
mod ping;
mod pull;
mod push;
mod report;

pub use blast::Blast;
pub use links::Remotes;
pub use ping::Ping;
pub use pull::{Pull, Pulled};
pub use push::{Push, Pushed, PushedPayload};
pub use report::{ProbeError, Report, Width};
