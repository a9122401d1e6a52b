//! Manual pages and completions, made from the definition of the commands.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, Error, print};

/// What the page of the program has beyond its commands.
const MORE: &str = include_str!("more.roff");

/// Prints what a shell needs to complete commands.
pub(super) fn completions(shell: Shell) -> Result<(), Error> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "lockgate", &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// Writes the pages into a directory, which is made: `lockgate.1`, and one for each command.
pub(super) fn manual(directory: &Path) -> Result<(), Error> {
    write_manual(directory).map_err(|error| {
        Error::of_system(
            format_args!("cannot write manual pages to {}", directory.display()),
            &error,
        )
    })
}

fn write_manual(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let page = |command: &Command, name: &str, more: &str| {
        let mut page = Vec::new();
        Man::new(command.clone()).render(&mut page)?;
        let text = String::from_utf8_lossy(&page);
        // Without a date, which would be that of the build, and with the version in its place.
        let title = format!(
            ".TH {} 1 \"\" \"lockgate {}\" lockgate",
            name.to_uppercase(),
            env!("CARGO_PKG_VERSION")
        );
        let lines = text.lines().map(|line| if line.starts_with(".TH ") { &title } else { line });
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        fs::write(directory.join(format!("{name}.1")), text + more)
    };
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        page(sub, &format!("lockgate-{}", sub.get_name()), "")?;
    }
    page(&command, "lockgate", MORE)
}
