//! Threads that look payloads up and open their files, for threads that must not wait for the disk.

use crate::limits::OPEN_THREADS_LEN_MAX;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What one of the threads does.
pub(super) type OpenerJob = Box<dyn FnOnce() + Send>;

/// The threads of one store, `stoq-open-N`. Each is started when a job finds none that waits, and ends with the store.
#[derive(Debug, Default)]
pub(super) struct Openers(Arc<OpenersShared>);

#[derive(Debug, Default)]
struct OpenersShared {
    queue: Mutex<OpenQueue>,
    /// Wakes a thread that waits for a job.
    there: Condvar,
}

#[derive(Default)]
struct OpenQueue {
    jobs: VecDeque<OpenerJob>,
    threads: usize,
    /// Threads that wait for a job.
    idle: usize,
    closed: bool,
}

impl std::fmt::Debug for OpenQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenQueue").field("jobs", &self.jobs.len()).finish_non_exhaustive()
    }
}

impl Drop for Openers {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.there.notify_all();
    }
}

impl Openers {
    /// How many threads were started.
    #[cfg(test)]
    pub(super) fn threads(&self) -> usize {
        self.0.queue().threads
    }

    /// Has a thread do this, after what was given before.
    ///
    /// # Errors
    /// There is no thread, and none can be started.
    pub(super) fn run(&self, job: OpenerJob) -> io::Result<()> {
        let mut queue = self.0.queue();
        if queue.jobs.len() >= queue.idle && queue.threads < OPEN_THREADS_LEN_MAX {
            let thread = self.0.clone();
            let builder = std::thread::Builder::new().name(format!("stoq-open-{}", queue.threads));
            match builder.spawn(move || thread.run()) {
                Ok(_) => queue.threads += 1,
                Err(error) if queue.threads == 0 => return Err(error),
                Err(_) => {}
            }
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.0.there.notify_one();
        Ok(())
    }
}

impl OpenersShared {
    fn queue(&self) -> MutexGuard<'_, OpenQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut queue = self.queue();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job();
                queue = self.queue();
            } else if queue.closed {
                return;
            } else {
                queue.idle += 1;
                queue = self.there.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn jobs_that_hang_stop_no_other_as_long_as_a_thread_is_left_and_all_are_done() {
        let openers = Openers::default();
        let (done, results) = channel();
        let (go, goes) = channel::<()>();
        let goes = Arc::new(Mutex::new(goes));
        for number in 0..OPEN_THREADS_LEN_MAX - 1 {
            let (done, goes) = (done.clone(), goes.clone());
            let hang = move || {
                let _ = goes.lock().unwrap().recv();
                done.send(number).unwrap();
            };
            openers.run(Box::new(hang)).unwrap();
        }
        for number in 100..200 {
            let done = done.clone();
            openers.run(Box::new(move || done.send(number).unwrap())).unwrap();
        }
        let next = || results.recv_timeout(Duration::from_secs(60)).unwrap();
        let quick: Vec<_> = (100..200).map(|_| next()).collect();
        assert_eq!(quick, (100..200).collect::<Vec<_>>());
        drop(go);
        let mut hung: Vec<_> = (1..OPEN_THREADS_LEN_MAX).map(|_| next()).collect();
        hung.sort_unstable();
        assert_eq!(hung, (0..OPEN_THREADS_LEN_MAX - 1).collect::<Vec<_>>());
        assert_eq!(openers.0.queue().threads, OPEN_THREADS_LEN_MAX);
    }
}
