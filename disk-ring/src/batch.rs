//! How the kernel schedules a thread.

use std::io;

/// Has this thread wait, when it wakes, until the threads on its core stop or have had their turn, instead of taking the core at once
/// (`SCHED_BATCH`). Its share of the core stays. A thread that is scheduled in another way than is usual stays so.
///
/// # Errors
/// The kernel's error, or a container's.
pub fn give_way() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the calls are of this thread, and the kernel reads the parameters.
    let result = unsafe {
        match libc::sched_getscheduler(0) {
            libc::SCHED_OTHER => libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters),
            // Another policy, which is positive, or an error.
            other if other > 0 => 0,
            error => error,
        }
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gives_way_alone() {
        // SAFETY: the call has no argument but this thread.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let before = policy();
        let given = std::thread::spawn(move || {
            let given = give_way();
            // Twice is as once.
            (given.is_ok() && give_way().is_ok(), policy())
        });
        let (is_given, of_thread) = given.join().unwrap();
        if is_given && before == libc::SCHED_OTHER {
            assert_eq!(of_thread, libc::SCHED_BATCH);
        }
        assert_eq!(policy(), before);
    }
}
