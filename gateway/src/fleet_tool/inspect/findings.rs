//! What a look at a directory finds.

use crate::check::{Finding, Severity};

/// What was found.
#[derive(Default)]
pub(super) struct FleetFindings(pub(super) Vec<Finding>);

impl FleetFindings {
    pub(super) fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.0.push(Finding { check, level: Severity::Ok, found: found.into(), fix: None });
    }

    pub(super) fn warn(&mut self, check: &'static str, found: impl Into<String>, fix: impl Into<String>) {
        let (found, fix) = (found.into(), Some(fix.into()));
        self.0.push(Finding { check, level: Severity::Warning, found, fix });
    }

    pub(super) fn fail(&mut self, check: &'static str, found: impl Into<String>, fix: impl Into<String>) {
        let (found, fix) = (found.into(), Some(fix.into()));
        self.0.push(Finding { check, level: Severity::Failed, found, fix });
    }
}
