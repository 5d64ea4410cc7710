//! crossbeam's parking, in terms that loom knows, and without its time limit.

use loom::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

#[derive(Debug, Default)]
struct Token {
    is_there: Mutex<bool>,
    given: Condvar,
}

#[derive(Debug)]
pub(crate) struct Parker(Unparker);

#[derive(Clone, Debug)]
pub(crate) struct Unparker(Arc<Token>);

impl Parker {
    pub(crate) fn new() -> Self {
        let token = Token { is_there: Mutex::new(false), given: Condvar::new() };
        Self(Unparker(Arc::new(token)))
    }

    pub(crate) fn unparker(&self) -> &Unparker {
        &self.0
    }

    pub(crate) fn park_timeout(&self, _limit: Duration) {
        let Token { is_there, given } = &*self.0.0;
        let mut token = is_there.lock().unwrap();
        while !*token {
            token = given.wait(token).unwrap();
        }
        *token = false;
    }
}

impl Unparker {
    pub(crate) fn unpark(&self) {
        *self.0.is_there.lock().unwrap() = true;
        self.0.given.notify_one();
    }
}
