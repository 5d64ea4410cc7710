//! The terminal while `top` draws on it. It is restored however `top` ends.

use crate::faults::{SignalError, started};
use anyhow::Context;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::{DefaultTerminal, Frame};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// A terminal in raw mode on its alternate screen. Dropping it restores the terminal.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    /// Held while `top` draws: a signal must not end the process in the middle of a picture.
    drawing: Arc<Mutex<()>>,
    signals: Handle,
}

impl Screen {
    /// Takes the terminal. From now on a signal or a panic restores it before the process ends.
    ///
    /// # Errors
    /// There is no terminal, or the kernel refuses a signal handler.
    pub(super) fn enter() -> anyhow::Result<Self> {
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM]).map_err(SignalError)?;
        let (handle, drawing) = (signals.handle(), Arc::<Mutex<()>>::default());
        let drawn = drawing.clone();
        let thread = std::thread::Builder::new().name("stoq-signals".into());
        let thread = thread.spawn(move || {
            if let Some(signal) = signals.forever().next() {
                // Never released: nothing is drawn any more.
                let _drawing = drawn.lock().unwrap_or_else(PoisonError::into_inner);
                leave();
                // The signal's default action ends the process, so that its parent sees the signal.
                let _ = emulate_default_handler(signal);
            }
        });
        started("handles signals", thread)?;
        let entering = drawing.lock().unwrap_or_else(PoisonError::into_inner);
        // `try_init` installs a panic hook that restores the terminal, except for the cursor.
        let terminal = ratatui::try_init().context("the terminal cannot be drawn on; --once needs none")?;
        let then = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            leave();
            then(panic);
        }));
        drop(entering);
        Ok(Self { terminal, drawing, signals: handle })
    }

    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        let _drawing = self.drawing.lock().unwrap_or_else(PoisonError::into_inner);
        self.terminal.draw(draw).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.signals.close();
        leave();
    }
}

/// Restores the terminal. Errors are ignored: the terminal may be gone.
fn leave() {
    let _ = ratatui::try_restore();
    let _ = execute!(io::stdout(), Show);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const CHILD: &str = "STOQ_TEST_PANIC_ON_THE_SCREEN";

    /// The test runs itself again on a terminal of script(1), and panics there.
    #[test]
    fn a_panic_restores_the_terminal_before_its_message() {
        if std::env::var_os(CHILD).is_some() {
            let _screen = Screen::enter().unwrap();
            panic!("in the middle of a picture");
        }
        let program = std::env::current_exe().unwrap();
        let name = "admin::screen::tests::a_panic_restores_the_terminal_before_its_message";
        let line = format!("{} --exact {name} --nocapture; stty -a", program.display());
        let mut script = Command::new("script");
        let script = script.args(["-qec", &line, "/dev/null"]).env(CHILD, "1").env("TERM", "xterm");
        let output = script.output().expect("script(1), of Debian's package bsdutils");
        let text = String::from_utf8_lossy(&output.stdout);
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("no {part:?} in {text:?}"));
        let (entered, left) = (at("\x1b[?1049h"), at("\x1b[?1049l"));
        let (shown, told) = (at("\x1b[?25h"), at("in the middle of a picture"));
        assert!(entered < left && left < told && shown < told, "{text:?}");
        let modes = &text[at("speed ")..];
        for mode in ["icanon", "echo", "isig"] {
            assert!(modes.split_whitespace().any(|word| word == mode), "{mode} in {modes:?}");
        }
    }
}
