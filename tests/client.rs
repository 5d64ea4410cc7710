//! The client against a gateway in the same process, over the kernel's sockets on the loopback interface.

#[path = "loopback/mod.rs"]
mod loopback {
    include!("loopback/mod.rs");
}

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use stoq::application::{Application, Placement};
use stoq::client::{
    Client, ClientError, ConnectOptions, FetchOptions, Kept, Peer, Prepared, PutOptions, Route,
};
use stoq::node::{Host, Hosted};
use stoq::queue::{AppPort, Command, Delivery};
use stoq::record::{Coverage, ErrorCode, Holder, Mirror};
use stoq::shard::Lanes;
use stoq::tls::NodeId;
use stoq::token::{Ranges, Token};
