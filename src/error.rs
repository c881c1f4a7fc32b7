//! The error type, and the exit codes.
//!
//! A message names the file and line, the tensor, or the rank, and says what to do. The [`Kind`] determines the exit
//! code, which scripts and schedulers rely on; `docs/configuration.md` has the table of codes.

use std::cell::Cell;
use std::fmt::{self, Display};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Declares the kinds of errors with their meanings, which the documentation shows, and their exit codes.
macro_rules! kinds {
    ($($(#[doc = $meaning:literal])+ $name:ident = $code:literal,)+) => {
        /// The kind of an error, which is its exit code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind { $($(#[doc = $meaning])+ $name = $code),+ }

        impl Kind {
            /// All kinds with their meanings in Markdown, by exit code.
            pub const ALL: &[(Kind, &str)] = &[$((Kind::$name, concat!($($meaning),+))),+];
        }
    };
}

kinds! {
    /// Any error without a code of its own, such as a CUDA error other than out of memory
    /// ([more](gpu.md#when-something-fails)).
    Other = 1,
    /// Invalid configuration or data. For `trainer doctor`: it found problems.
    Input = 2,
    /// Stopped early by a signal, after writing a checkpoint.
    Stopped = 3,
    /// The loss or the gradient norm is NaN or Inf.
    NonFinite = 4,
    /// A rank died, or a collective timed out.
    Peer = 5,
    /// Out of memory, on the host or on the device. The rank reports the peak memory of its tensors by use.
    OutOfMemory = 6,
}

impl Kind {
    /// Returns the process exit code of this kind of error.
    pub fn exit_code(self) -> i32 {
        self as i32
    }

    /// Returns the kind of an exit code, [`Kind::Other`] for any other code.
    pub fn from_exit_code(code: i32) -> Kind {
        Self::ALL.iter().find(|(kind, _)| kind.exit_code() == code).map_or(Kind::Other, |(kind, _)| *kind)
    }
}

/// An error with its kind and a message for the user.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Kind,
    message: String,
    shared: bool,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Creates an error of the given kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), shared: false }
    }

    /// Creates an error of invalid configuration or data (exit code 2).
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Input, message)
    }

    /// Creates an error without an exit code of its own (exit code 1).
    pub fn other(message: impl Into<String>) -> Self {
        Self::new(Kind::Other, message)
    }

    /// Creates an error of a dead or late rank (exit code 5).
    pub fn peer(message: impl Into<String>) -> Self {
        Self::new(Kind::Peer, message)
    }

    /// Returns an error for a file that is a Git LFS pointer (the format's specification, version 1), which a clone
    /// without git-lfs leaves in place of a large file. `start` is the start of the file, 64 bytes if it has them.
    ///
    /// # Errors
    /// Exit 2 if it is one.
    pub fn refuse_lfs_pointer(path: &Path, start: &[u8]) -> Result<()> {
        if !start.starts_with(b"version https://git-lfs.github.com/spec/") {
            return Ok(());
        }
        Err(Self::input(format!(
            "{}: only a Git LFS pointer to the file: run `git lfs install` and `git lfs pull` in its folder, or \
             download the file itself",
            path.display()
        )))
    }

    /// Returns the kind, which determines the exit code.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns whether every rank has this same error, so that only rank 0 prints it and all exit together.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Marks the error as one that every rank has.
    pub fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// Returns the same error with another kind.
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// Returns the same error with `context: ` in front of its message.
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

thread_local! {
    static CATCHES: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in [`catch_panic`], whose caller reports panics: they do not end the job.
pub fn catches_panics() -> bool {
    CATCHES.get()
}

/// Runs work of a library that panics where an error is expected.
///
/// # Errors
/// The message of the panic.
pub fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let outer = CATCHES.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    CATCHES.set(outer);
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        text.unwrap_or("a panic without a message").to_owned()
    })
}

/// Adds `context` to the errors of results.
pub trait Context<T> {
    /// Puts `context: ` in front of the error's message.
    fn context(self, context: impl Display) -> Result<T>;
    /// Puts `context: ` in front and makes it an input error (exit code 2): for files that the user named.
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
