//! Why a stream must end.

use crate::record::{ErrorCode, RecordError, RecordType};
use crate::token::VerifyError;

/// Why a stream must end.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) code: ErrorCode,
    pub(super) reason: String,
    /// Whether the connection must end as well.
    pub(super) fatal: bool,
}

impl Fault {
    pub(super) fn new(code: ErrorCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), fatal: false }
    }

    pub(super) fn control_reset() -> Self {
        Self { fatal: true, ..Self::malformed("CONTROL was reset") }
    }

    /// The peer's streams hold more memory behind gaps than its windows explain.
    pub(super) fn holds_too_much() -> Self {
        Self { fatal: true, ..Self::new(ErrorCode::Limit, "too much is held behind gaps") }
    }

    pub(super) fn malformed(reason: &str) -> Self {
        Self::new(ErrorCode::Malformed, reason)
    }

    /// Whether it breaks the protocol. Requests for payloads that are not held, at the wrong time, or along the wrong route break
    /// no rule.
    pub(super) fn counts(&self) -> bool {
        use ErrorCode::{
            Budget, Busy, GoingAway, HopLimit, Loop, NoRoute, NotAuthorized, NotFound, NotMyHop, TooEarly,
        };
        !matches!(
            self.code,
            NotFound
                | TooEarly
                | Busy
                | GoingAway
                | NotAuthorized
                | Loop
                | HopLimit
                | NotMyHop
                | NoRoute
                | Budget
        )
    }
}

impl From<RecordError> for Fault {
    fn from(error: RecordError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<VerifyError> for Fault {
    fn from(error: VerifyError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// A known record in a wrong place (protocol §4).
pub(super) fn unexpected(kind: RecordType, place: &str) -> Fault {
    // The protocol writes the names of its records in capitals.
    let name = format!("{kind:?}").to_uppercase();
    Fault::malformed(&format!("{name} {place}"))
}
