//! Lines for people, or JSON for machines.

use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};
use std::path::Path;

use clap::Args;
use serde_json::Value;

/// Whatever went wrong, in one line.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How to show things.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Style {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Keys and values in hexadecimal; without it, bytes that are no plain characters are escaped.
    #[arg(long)]
    hex: bool,
}

impl Style {
    /// Lines, or JSON.
    pub(crate) fn plain(json: bool) -> Style {
        Style { json, hex: false }
    }
}

/// The command does not make sense as it was given.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A line on standard output from a process that goes on, whether or not anybody reads it.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Standard output.
pub(crate) struct Output {
    style: Style,
    out: BufWriter<StdoutLock<'static>>,
}

impl Output {
    pub(crate) fn new(style: Style) -> Output {
        Output { style, out: BufWriter::new(io::stdout().lock()) }
    }

    /// Says the same to people and to machines.
    pub(crate) fn say(&mut self, text: &str, json: &Value) -> io::Result<()> {
        match self.style.json {
            true => writeln!(self.out, "{json}"),
            false => writeln!(self.out, "{text}"),
        }
    }

    /// A key or a value.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> String {
        match self.style.hex {
            true => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            false => bytes.escape_ascii().to_string(),
        }
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    pub(crate) fn end(mut self) -> Result<(), Failure> {
        Ok(self.flush()?)
    }
}

/// What went wrong with a file. That nobody reads any more is not the file's.
pub(crate) fn in_file(path: &Path, failure: Failure) -> Failure {
    match is_closed(&failure) {
        true => failure,
        false => format!("{}: {failure}", path.display()).into(),
    }
}

/// True if nobody reads any more, as with `| head`: that is no failure.
pub(crate) fn is_closed(failure: &Failure) -> bool {
    failure.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
