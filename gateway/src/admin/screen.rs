//! The terminal while `top` draws on it: as it was before, however `top` ends.

use anyhow::Context;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::{DefaultTerminal, Frame};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// A terminal in raw mode on its other screen; dropping it gives it back.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    /// Held while something is drawn: a signal must not end the process between two halves of it.
    drawing: Arc<Mutex<()>>,
    signals: Handle,
}

impl Screen {
    /// Takes the terminal. From now on a signal, or a panic, gives it back before it ends the process.
    ///
    /// # Errors
    /// There is no terminal, or signals cannot be taken.
    pub(super) fn enter() -> anyhow::Result<Self> {
        let mut signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM]).context("cannot take signals")?;
        let (handle, drawing) = (signals.handle(), Arc::<Mutex<()>>::default());
        let drawn = drawing.clone();
        let thread = std::thread::Builder::new().name("stoq-signals".into());
        let thread = thread.spawn(move || {
            if let Some(signal) = signals.forever().next() {
                // Never given back: nothing is drawn any more.
                let _drawing = drawn.lock().unwrap_or_else(PoisonError::into_inner);
                leave();
                // As if nobody had taken it, so that the caller sees by which signal this ended.
                let _ = emulate_default_handler(signal);
            }
        });
        thread.context("cannot start the thread that takes signals")?;
        let entering = drawing.lock().unwrap_or_else(PoisonError::into_inner);
        // It has panics give the terminal back, all but the cursor.
        let terminal = ratatui::try_init().context("the terminal")?;
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

/// Gives the terminal back. It may be gone: then nobody misses it.
fn leave() {
    let _ = ratatui::try_restore();
    let _ = execute!(io::stdout(), Show);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const CHILD: &str = "STOQ_TEST_PANIC_ON_THE_SCREEN";

    /// Runs itself again on a terminal of its own, which script(1) makes, and panics there.
    #[test]
    fn a_panic_gives_the_terminal_back_before_it_is_told() {
        if std::env::var_os(CHILD).is_some() {
            let _screen = Screen::enter().unwrap();
            panic!("in the middle of a picture");
        }
        let program = std::env::current_exe().unwrap();
        let name = "admin::screen::tests::a_panic_gives_the_terminal_back_before_it_is_told";
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
