//! A path, measured from its client's side: delay, rate both ways, loss, what limits, and what to set.
//!
//! [`PathProbe`] is the application that makes the traffic: round trips alone, then messages forth beside round trips, then messages forth and
//! back. [`PathSurvey`] takes its events and looks at the connection, and makes the [`PathReport`]. Neither reads a clock: the same code
//! measures a simulated link under virtual time.

mod advice;
mod plan;
mod prober;
mod report;
mod survey;

pub use advice::advise;
pub use plan::{PathEvent, PathPhase, PathPlan};
pub use prober::PathProbe;
pub use report::{Advice, AdviceSide, BackReport, ForthReport, PathReport, Trips};
pub use survey::PathSurvey;
