//! Credit for bytes that are on their way to an application, or kept by it.

use super::Credit;

/// Credit that was taken for bytes of a delivery. Dropping it gives the credit back.
///
/// [`AppPort::give_back`](super::AppPort::give_back) gives it back and has the worker look at once whether its stream may be read on.
#[derive(Debug, Default)]
pub struct Charge(Option<(Credit, usize)>);

impl Charge {
    /// Takes credit for this many bytes.
    pub(crate) fn take(credit: &Credit, bytes: usize) -> Self {
        credit.take(bytes);
        Self(Some((credit.clone(), bytes)))
    }

    /// Leaves the credit taken: an application gives it back by its own account.
    pub(crate) fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some((credit, bytes)) = &self.0 {
            credit.give_back(*bytes);
        }
    }
}
