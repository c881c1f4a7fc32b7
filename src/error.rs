//! The one error type, and the exit codes that it becomes.
//!
//! A message names the file and line, the tensor, or the rank, and says what to do. The [`Kind`] decides the
//! exit code, which scripts and schedulers rely on; both are documented in `docs/configuration.md`.

use std::fmt::{self, Display};

/// What went wrong, as far as an exit code can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anything that has no code of its own: exit 1.
    Other,
    /// Bad configuration or bad data: exit 2.
    Input,
    /// Stopped early on a signal, with a checkpoint written: exit 3.
    Stopped,
    /// The loss or the gradient norm is not a finite number: exit 4.
    NonFinite,
    /// Another rank died, or a collective timed out: exit 5.
    Peer,
    /// No memory left, on the host or on the device: exit 6.
    OutOfMemory,
}

impl Kind {
    /// The process exit code of this kind of error.
    pub fn exit_code(self) -> i32 {
        match self {
            Kind::Other => 1,
            Kind::Input => 2,
            Kind::Stopped => 3,
            Kind::NonFinite => 4,
            Kind::Peer => 5,
            Kind::OutOfMemory => 6,
        }
    }

    /// The kind behind an exit code, [`Kind::Other`] for a code that is not ours.
    pub fn from_exit_code(code: i32) -> Kind {
        [Kind::Input, Kind::Stopped, Kind::NonFinite, Kind::Peer, Kind::OutOfMemory]
            .into_iter()
            .find(|kind| kind.exit_code() == code)
            .unwrap_or(Kind::Other)
    }
}

/// An error with its kind and a message for a person.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    message: String,
    shared: bool,
}

/// `Result` with our [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the given kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), shared: false }
    }

    /// Bad configuration or data (exit 2).
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Input, message)
    }

    /// An error with no exit code of its own (exit 1).
    pub fn other(message: impl Into<String>) -> Self {
        Self::new(Kind::Other, message)
    }

    /// A dead or late rank (exit 5).
    pub fn peer(message: impl Into<String>) -> Self {
        Self::new(Kind::Peer, message)
    }

    /// The kind, and through it the exit code.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether every rank has this same error, so that rank 0 alone prints it and all leave together.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Marks an error that every rank has.
    pub fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// The same error with another kind.
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The same error with `context: ` in front.
    pub fn context(mut self, context: impl Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Error::other(e.to_string())
    }
}

impl From<serde_json::Error> for Error {
    fn from(e: serde_json::Error) -> Self {
        Error::input(e.to_string())
    }
}

/// `context` on results, so that a message says where it happened.
pub trait Context<T> {
    /// Puts `context: ` in front of an error's message.
    fn context(self, context: impl Display) -> Result<T>;
    /// The same, and makes it an input error (exit 2): for files that the user named.
    fn input_context(self, context: impl Display) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, context: impl Display) -> Result<T> {
        self.map_err(|e| e.into().context(context))
    }

    fn input_context(self, context: impl Display) -> Result<T> {
        self.map_err(|e| e.into().context(context).with_kind(Kind::Input))
    }
}
