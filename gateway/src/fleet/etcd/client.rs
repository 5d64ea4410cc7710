//! A command that asks etcd a few things, one after another.

use super::super::exchange::FleetEvent;
use super::super::orders::{StoreCondition, StoreSnapshot, StoreTransaction};
use super::{EtcdAsker, EtcdSettings, order_wire, wire};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use stoq::limits::FLEET_ANSWER_MS_MAX;
use tokio::runtime::Runtime;

/// Why etcd gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EtcdFault {
    /// The user may not do what was asked.
    #[error("{0}; give --user and --password-file of one who may (docs/fleet.md)")]
    Denied(String),
    /// No endpoint answers.
    #[error("etcd does not answer ({0}); `stoq-gateway fleet check` looks at each endpoint")]
    Lost(String),
    /// An endpoint was lost after it was told to change something.
    #[error(
        "etcd was lost before it confirmed the change ({0}); look whether it is there by `stoq-gateway fleet status`, and run this again if not"
    )]
    Unsure(String),
}

/// What was seen of an endpoint.
#[derive(Clone, Debug, Default)]
pub struct EtcdSight {
    /// The certificate that it showed.
    pub certificate: Option<CertificateDer<'static>>,
    /// The time of day that it named.
    pub date: Option<SystemTime>,
}

/// Asks etcd. The first endpoint that answers is asked everything.
pub struct EtcdClient {
    runtime: Runtime,
    settings: Arc<EtcdSettings>,
    asker: Option<EtcdAsker>,
}

impl EtcdClient {
    /// A client that has not connected yet.
    ///
    /// # Errors
    /// The system gives no events.
    pub fn new(settings: EtcdSettings) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        Ok(Self { runtime, settings: Arc::new(settings), asker: None })
    }

    /// Every key of the fleet, as a quorum of etcd has them.
    ///
    /// # Errors
    /// [`EtcdFault`]: no endpoint answers, or the user may not read the keys.
    pub fn snapshot(&mut self) -> Result<StoreSnapshot, EtcdFault> {
        let prefix = &self.settings.prefix;
        let (key, range_end) = (wire::base64(prefix.as_bytes()), wire::base64(&wire::end_of(prefix)));
        let body = json!({ "key": key, "range_end": range_end });
        let mut lost = Vec::new();
        for at in 0..self.settings.endpoints.len() {
            let endpoint = self.settings.endpoint(at);
            let authority = endpoint.authority.clone();
            let (settings, own_key) = (self.settings.clone(), Arc::from(""));
            self.asker = Some(EtcdAsker { settings, own_key, endpoint, connection: None, token: None });
            match self.ask("/v3/kv/range", &body) {
                Ok(value) => match order_wire::snapshot(&value, &self.settings.prefix) {
                    Some(snapshot) => return Ok(snapshot),
                    None => lost.push(format!("{authority}: its answer is none of etcd's")),
                },
                Err(EtcdFault::Lost(why)) => lost.push(format!("{authority}: {why}")),
                Err(fault) => return Err(fault),
            }
        }
        Err(EtcdFault::Lost(lost.join("; ")))
    }

    /// Has etcd take a transaction. Returns whether its conditions were so.
    ///
    /// # Errors
    /// [`EtcdFault`]: the user may not write this, or the endpoint was lost.
    pub fn commit(&mut self, transaction: &StoreTransaction) -> Result<bool, EtcdFault> {
        let body = order_wire::transaction(transaction, &self.settings.prefix);
        let value = self.ask("/v3/kv/txn", &body).map_err(|fault| match fault {
            EtcdFault::Lost(why) => EtcdFault::Unsure(why),
            fault => fault,
        })?;
        Ok(value["succeeded"] == true)
    }

    /// Whether the user may write a key. Nothing is written: the condition cannot be so.
    ///
    /// # Errors
    /// The endpoint was lost.
    pub fn may_write(&mut self, key: &str) -> Result<bool, EtcdFault> {
        // No key has been put by so late a revision.
        let conditions = vec![StoreCondition::Unchanged(key.to_owned(), u64::MAX >> 1)];
        let puts = vec![(key.to_owned(), Vec::new())];
        match self.commit(&StoreTransaction { conditions, puts }) {
            Ok(_) => Ok(true),
            Err(EtcdFault::Denied(_)) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// What was seen of the endpoint that is asked.
    pub fn sight(&self) -> EtcdSight {
        let connection = self.asker.as_ref().and_then(|asker| asker.connection.as_ref());
        connection.map_or_else(EtcdSight::default, |connection| EtcdSight {
            certificate: connection.certificate.clone(),
            date: connection.date,
        })
    }

    fn ask(&mut self, path: &'static str, body: &Value) -> Result<Value, EtcdFault> {
        let Some(asker) = &mut self.asker else {
            return Err(EtcdFault::Lost("no endpoint was asked".into()));
        };
        let limit = Duration::from_millis(FLEET_ANSWER_MS_MAX);
        let asked =
            self.runtime.block_on(async { tokio::time::timeout(limit, asker.question(path, body)).await });
        let silent = || EtcdFault::Lost(format!("no answer within {FLEET_ANSWER_MS_MAX} ms"));
        let (status, answer) = asked.map_err(|_| silent())?.map_err(EtcdFault::Lost)?;
        wire::value(status, &answer).map_err(|said| match said {
            wire::Said::Event(FleetEvent::Denied(why)) => EtcdFault::Denied(why),
            wire::Said::Event(FleetEvent::Lost(why)) => EtcdFault::Lost(why),
            wire::Said::Event(_) => EtcdFault::Lost("its answer is none of etcd's".into()),
            wire::Said::Stale => EtcdFault::Lost("the user's token is not taken".into()),
        })
    }
}
