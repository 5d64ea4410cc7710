//! Man pages and shell completions, generated from the command lines, so that they are never out of date.

use clap::Command;
use clap_complete::Shell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The shells with completions.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// `stoq generate DIRECTORY`, for packagers; `--help` does not list it.
#[derive(clap::Args)]
pub struct Args {
    /// The directory for man pages and completions; made if it is missing.
    directory: PathBuf,
}

impl Args {
    /// Writes `man/*.1` and `completions/*` for this command.
    ///
    /// # Errors
    ///
    /// A file or directory cannot be written.
    pub fn write(&self, command: Command) -> io::Result<()> {
        write(command, &self.directory)
    }
}

/// Writes a page for `command` and one for each of its subcommands that `--help` shows, and completions.
fn write(command: Command, directory: &Path) -> io::Result<()> {
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    let command = crate::ranges::bounded(command);
    let name = command.get_name().to_owned();
    // The pages describe no subcommand that `--help` does not list.
    let mut shown = Command::new(name.clone());
    shown = described(&command, shown);
    clap_mangen::generate_to(shown.clone(), &man)?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut shown, &name, &completions)?;
    }
    Ok(())
}

/// `onto` with everything of `command` except hidden subcommands, which clap cannot remove.
fn described(command: &Command, onto: Command) -> Command {
    let mut onto = onto.args(command.get_arguments().cloned());
    if let Some(about) = command.get_about() {
        onto = onto.about(about.clone());
    }
    if let Some(about) = command.get_long_about() {
        onto = onto.long_about(about.clone());
    }
    if let Some(version) = command.get_version() {
        onto = onto.version(version.to_owned());
    }
    onto.subcommands(command.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    #[test]
    fn pages_and_completions_describe_the_subcommands_that_help_shows_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let command = Command::new("tool")
            .version("1.2.3")
            .about("Does things")
            .subcommand(Command::new("shown").about("Is seen").arg(Arg::new("size").long("size")))
            .subcommand(Command::new("secret").hide(true));
        write(command, directory.path()).unwrap();
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(read("man/tool.1").contains("Does things"));
        assert!(read("man/tool-shown.1").contains("size"));
        assert!(!directory.path().join("man/tool-secret.1").exists());
        for file in ["tool.bash", "_tool", "tool.fish"] {
            let text = read(&format!("completions/{file}"));
            assert!(text.contains("shown") && text.contains("size") && !text.contains("secret"), "{file}");
        }
    }
}
