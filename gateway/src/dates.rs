//! Checks, while a gateway runs, whether its certificates are within their dates, and logs when they are not.
//!
//! A gateway with a certificate outside its dates starts and stays up, but is not ready. A reload with another certificate makes it ready
//! without a restart; so does the correction of a wrong clock.

use crate::periodic::Periodic;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use stoq::tls::CertificateSummary;

/// The time between two checks.
const LOOK: Duration = Duration::from_secs(10);
/// How often the same line is repeated.
const AGAIN: Duration = Duration::from_secs(24 * 60 * 60);
/// How long before its end a certificate is reported.
const SOON: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Certificates, each once: the gateway's own and its issuers'.
type Chain = Arc<Mutex<Vec<CertificateSummary>>>;

/// The thread that checks. It ends when this is dropped.
pub struct Dates {
    chain: Chain,
    _thread: Periodic,
}

impl Dates {
    /// Checks these certificates now and from now on. Their first faults are logged before it returns.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn watch(chain: Vec<CertificateSummary>) -> std::io::Result<Self> {
        let mut log = Log::default();
        log.look(&chain, SystemTime::now(), Instant::now()).say();
        let chain = Arc::new(Mutex::new(chain));
        let looked_at = chain.clone();
        let thread = Periodic::start("stoq-dates", LOOK, move || {
            let chain = looked_at.lock().unwrap_or_else(PoisonError::into_inner).clone();
            log.look(&chain, SystemTime::now(), Instant::now()).say();
        })?;
        Ok(Self { chain, _thread: thread })
    }

    /// Checks these certificates instead from now on.
    pub fn set(&self, chain: Vec<CertificateSummary>) {
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = chain;
    }
}

/// Why peers refuse this chain at `now`: the fault of its first certificate outside its dates.
pub fn out_of_dates(chain: &[CertificateSummary], now: SystemTime) -> Option<String> {
    chain.iter().find_map(|certificate| certificate.out_of_dates(now))
}

/// The last line, and when it was logged.
#[derive(Default)]
struct Log {
    said: Option<(Kind, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Refused,
    Ends,
}

/// A line to log.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Nothing,
    Refused(String),
    Ends(String),
    Well,
}

impl Log {
    fn look(&mut self, chain: &[CertificateSummary], now: SystemTime, at: Instant) -> Line {
        let ends = || {
            let first = chain.iter().min_by_key(|certificate| certificate.not_after_s)?;
            out_of_dates(std::slice::from_ref(first), now + SOON)?;
            Some(format!("the certificate of {} is valid until {} only", first.subject, first.not_after))
        };
        let found = match out_of_dates(chain, now) {
            Some(why) => Some((Kind::Refused, why)),
            None => ends().map(|why| (Kind::Ends, why)),
        };
        let Some((kind, why)) = found else {
            let was_refused = self.said.take().is_some_and(|(kind, _)| kind == Kind::Refused);
            return if was_refused { Line::Well } else { Line::Nothing };
        };
        if self.said.is_some_and(|(said, since)| said == kind && at.duration_since(since) < AGAIN) {
            return Line::Nothing;
        }
        self.said = Some((kind, at));
        match kind {
            Kind::Refused => Line::Refused(why),
            Kind::Ends => Line::Ends(why),
        }
    }
}

impl Line {
    fn say(self) {
        match self {
            Self::Nothing => {}
            Self::Refused(why) => tracing::error!(why, "no peer accepts this gateway"),
            Self::Ends(why) => tracing::warn!(why, "peers will refuse this gateway soon"),
            Self::Well => tracing::info!("the gateway's certificates are within their dates again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoq::tls::{FalconAlgorithm, Identity};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn a_certificate_is_logged_before_its_end_and_after_it_once_a_day() {
        let made = Identity::generate(FalconAlgorithm::FalconPadded512, "node", &[], 30).unwrap();
        let chain = made.identity.summaries().unwrap();
        let (now, at) = (SystemTime::now(), Instant::now());
        let mut log = Log::default();
        let mut look = |days: u32| log.look(&chain, now + DAY * days, at + DAY * days);
        assert_eq!(look(0), Line::Nothing);
        assert!(matches!(look(25), Line::Ends(why) if why.contains("node")));
        assert_eq!(look(25), Line::Nothing, "once a day");
        assert!(matches!(look(26), Line::Ends(_)));
        assert!(
            matches!(look(31), Line::Refused(why) if why.contains("has expired") && why.contains("same key"))
        );
        assert_eq!(look(31), Line::Nothing);
        assert!(matches!(look(32), Line::Refused(_)));
    }

    #[test]
    fn a_clock_at_1970_is_named_and_its_correction_is_logged_once() {
        let made = Identity::generate(FalconAlgorithm::FalconPadded512, "node", &[], 30).unwrap();
        let chain = made.identity.summaries().unwrap();
        let (boot, at) = (SystemTime::UNIX_EPOCH + Duration::from_secs(60), Instant::now());
        let mut log = Log::default();
        let Line::Refused(why) = log.look(&chain, boot, at) else { panic!("accepted in 1970") };
        assert!(
            why.contains("clock is wrong: it says 1970-01-01T00:01:00Z") && why.contains("not valid before"),
            "{why}"
        );
        assert_eq!(log.look(&chain, SystemTime::now(), at), Line::Well);
        assert_eq!(log.look(&chain, SystemTime::now(), at), Line::Nothing);
    }
}
