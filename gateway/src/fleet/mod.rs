//! A gateway's part in a fleet: its keys, and what it knows of the other gateways.
//!
//! [`record`] reads what one key of the directory says, [`table`] makes a whole of all keys, and [`member`] decides what is asked of the
//! directory and when. None of them has a clock or a socket. [`file`](mod@file) reads a directory that is a file.

mod note;

mod keys;

pub mod record;

pub mod table;

pub mod lease;

pub mod exchange;

pub mod member;

pub mod file;

pub mod saved;

pub mod view;

pub mod etcd;

mod joined;

mod part;

pub use keys::FleetCommand;
pub(crate) use keys::read_key;
pub(crate) use part::FleetPart;
