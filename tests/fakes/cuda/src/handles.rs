//! Handles: numbers for objects, never reused.

use crate::driver::{Code, locked};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// Returns the next handle. CUDA reserves small numbers: null, and names of the default stream.
static NEXT: AtomicUsize = AtomicUsize::new(0x1000);

/// The live objects of one kind.
pub struct Handles<T>(Mutex<HashMap<usize, Arc<T>>>);

impl<T> Handles<T> {
    pub fn new() -> Self {
        Handles(Mutex::default())
    }

    pub fn add(&self, thing: Arc<T>) -> usize {
        let handle = NEXT.fetch_add(0x10, Ordering::Relaxed);
        locked(&self.0).insert(handle, thing);
        handle
    }

    pub fn get(&self, handle: usize) -> Result<Arc<T>, Code> {
        locked(&self.0).get(&handle).cloned().ok_or(Code::InvalidHandle)
    }

    pub fn remove(&self, handle: usize) -> Result<(), Code> {
        locked(&self.0).remove(&handle).map(drop).ok_or(Code::InvalidHandle)
    }
}
