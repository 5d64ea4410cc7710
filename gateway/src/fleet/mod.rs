//! A gateway's part in a fleet: its keys, and what it knows of the other gateways.
//!
//! [`record`] reads what one key of the directory says, [`table`] makes a whole of all keys, and [`member`] decides what is asked of the
//! directory and when. [`orders`] decides
//! what an operator's command changes. None of them has a clock or a socket. [`file`](mod@file) reads a directory that is a file.

mod note;

mod clock;

mod keys;

pub mod record;

pub mod table;

pub mod lease;

pub mod exchange;

pub mod member;

pub mod file;

pub mod orders;

pub mod saved;

pub mod view;

mod http;

pub mod directory;

pub mod etcd;

pub mod kube;

mod members;

mod handover_table;

mod attached;

pub(crate) mod joined;

mod part;

pub(crate) use attached::AttachedGateway;
pub(crate) use clock::unix_s;
pub(crate) use keys::{adopt, make_key, read_key};
pub(crate) use part::FleetPart;
