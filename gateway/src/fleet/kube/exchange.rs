//! What a member of a fleet in Kubernetes asks of its driver, and what the driver tells it.

use super::object::KubeCollection;
use serde_json::Value;

/// A method of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KubeMethod {
    /// To read.
    Get,
    /// To make.
    Post,
    /// To replace.
    Put,
    /// To delete.
    Delete,
}

/// One call of the API.
#[derive(Clone, Debug, PartialEq)]
pub struct KubeCall {
    /// The method.
    pub method: KubeMethod,
    /// The path, with its query.
    pub path: String,
    /// The object, if one is sent.
    pub body: Option<Value>,
}

/// What a member asks of its driver.
#[derive(Clone, Debug, PartialEq)]
pub enum KubeRequest {
    /// To leave the former connections. Events of other sessions are passed over.
    Connect {
        /// The session.
        session: u64,
    },
    /// For one answer.
    Ask(KubeCall),
    /// For a watch, in place of the former one of these objects. Events of other watches of them are passed over.
    Watch {
        /// The objects.
        collection: KubeCollection,
        /// The watch.
        watch: u64,
        /// The call that begins it.
        call: KubeCall,
    },
}

/// An answer of the API.
#[derive(Clone, Debug)]
pub struct KubeAnswer {
    /// Its status.
    pub status: u16,
    /// After how many seconds the API wants to be asked again, if it says so.
    pub retry_after_s: Option<u64>,
    /// Its body.
    pub body: Vec<u8>,
}

/// What a driver tells a member.
#[derive(Clone, Debug)]
pub enum KubeEvent {
    /// The answer to what was asked.
    Answered(KubeAnswer),
    /// A watch has begun.
    Watching(u64),
    /// A watch is refused.
    Refused(u64, KubeAnswer),
    /// A watch tells this.
    Told(u64, Vec<u8>),
    /// A watch has ended, as the API ends each after a while.
    Ended(u64),
    /// The API is lost, and all that was asked of it.
    Lost(String),
}

/// Why a call came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KubeRefusal {
    /// There is no such object, or none of its kind.
    #[error("it has no such object, kind or namespace; install the chart's CRDs")]
    Missing,
    /// Another object or version is there.
    #[error("another version is there")]
    Conflict,
    /// The API keeps no changes of so long ago.
    #[error("it keeps no changes of so long ago")]
    Gone,
    /// It wants to be asked later, after these seconds.
    #[error("the API asks for a pause of {0} s (status 429)")]
    Later(u64),
    /// The account may not do this.
    #[error("{0}")]
    Denied(String),
    /// Something else.
    #[error("{0}")]
    Failed(String),
}

/// Bytes that are shown of an answer that is none of Kubernetes'.
const ERROR_SHOWN_LEN: usize = 100;

impl KubeAnswer {
    /// The object of the answer.
    pub(super) fn object(&self) -> Result<Value, KubeRefusal> {
        let value: Option<Value> = serde_json::from_slice(&self.body).ok();
        match (self.status, value) {
            (200..=299, Some(value)) => Ok(value),
            (200..=299, None) => Err(KubeRefusal::Failed("its answer is none of Kubernetes'".into())),
            (404, _) => Err(KubeRefusal::Missing),
            (409, _) => Err(KubeRefusal::Conflict),
            (410, _) => Err(KubeRefusal::Gone),
            (429, _) => Err(KubeRefusal::Later(self.retry_after_s.unwrap_or(1))),
            (503, _) if self.retry_after_s.is_some() => {
                Err(KubeRefusal::Later(self.retry_after_s.unwrap_or(1)))
            }
            (401, value) => Err(KubeRefusal::Failed(format!("the token is not taken: {}", self.says(value)))),
            (403, value) => Err(KubeRefusal::Denied(self.says(value))),
            (status, value) => Err(KubeRefusal::Failed(format!("status {status}: {}", self.says(value)))),
        }
    }

    fn says(&self, value: Option<Value>) -> String {
        let message = value.and_then(|value| value["message"].as_str().map(str::to_owned));
        message.unwrap_or_else(|| {
            let shown = &self.body[..self.body.len().min(ERROR_SHOWN_LEN)];
            String::from_utf8_lossy(shown).escape_debug().to_string()
        })
    }
}

impl KubeCall {
    /// A call that reads.
    pub(super) fn get(path: String) -> Self {
        Self { method: KubeMethod::Get, path, body: None }
    }

    /// A call that sends an object.
    pub(super) fn send(method: KubeMethod, path: String, body: Value) -> Self {
        Self { method, path, body: Some(body) }
    }
}
