//! Errors as NCCL reports them: a code, and a text that stays until the next error.

use std::ffi::{CStr, CString, c_int};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// `ncclResult_t`.
#[derive(Debug, Clone, Copy)]
pub enum Code {
    UnhandledCudaError = 1,
    SystemError = 2,
    InvalidArgument = 4,
    InvalidUsage = 5,
    RemoteError = 6,
}

/// A code and its details.
#[derive(Debug, Clone)]
pub struct Failure {
    pub code: Code,
    pub text: String,
}

pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    pub fn new(code: Code, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into() }
    }

    pub fn argument(text: impl Into<String>) -> Failure {
        Failure::new(Code::InvalidArgument, text)
    }

    pub fn usage(text: impl Into<String>) -> Failure {
        Failure::new(Code::InvalidUsage, text)
    }

    pub fn system(what: &str, error: &std::io::Error) -> Failure {
        Failure::new(Code::SystemError, format!("{what}: {error}"))
    }

    /// Sets the last error.
    pub fn tell(&self) -> c_int {
        // Earlier callers may still read the old text: it is never freed.
        let text = CString::new(self.text.replace('\0', " ")).expect("no zero bytes");
        *locked(&LAST) = Box::leak(text.into_boxed_c_str());
        self.code as c_int
    }
}

static LAST: Mutex<&'static CStr> = Mutex::new(c"");

/// Converts a result to the return value of a C function.
pub fn code_of(call: &str, outcome: Outcome<()>) -> c_int {
    match outcome {
        Ok(()) => 0,
        Err(Failure { code, text }) => Failure { code, text: format!("{call}: {text}") }.tell(),
    }
}

pub fn last() -> &'static CStr {
    *locked(&LAST)
}

/// Returns NCCL's text for a code.
pub fn text(code: c_int) -> &'static CStr {
    match code {
        0 => c"no error",
        1 => c"unhandled cuda error",
        2 => c"unhandled system error",
        4 => c"invalid argument",
        5 => c"invalid usage",
        6 => c"remote process exited or there was a network error",
        7 => c"NCCL operation in progress",
        _ => c"unknown result code",
    }
}

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Never returns.
pub fn hang() -> ! {
    loop {
        std::thread::park();
    }
}
