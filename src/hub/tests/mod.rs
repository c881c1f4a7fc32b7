//! Tests against a small server that answers as the Hub does, with faults.

mod downloads;
mod faults;
mod server;
mod uploads;
