//! The files of a set of tensors, which one rank or all write while all ranks gather.

use crate::checkpoint::file_queue::FileQueue;
use crate::checkpoint::sharded;
use crate::checkpoint::tensor_writer::{Entry, Values, Writer};
use crate::error::Error;
use crate::observe::progress::Phase;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tch::Tensor;

/// This rank among the ranks that write.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    pub rank: usize,
    pub writers: usize,
}

/// A folder of tensors that is being written.
pub struct Files<'a> {
    /// None on a rank that writes nothing.
    pub folder: Option<&'a Path>,
    pub queue: FileQueue,
    pub phase: Phase,
    /// The files that other ranks write.
    pub of_others: Vec<PathBuf>,
}

/// The files of a set, of which this rank writes at most one. An error waits in the queue until all units are gathered,
/// since the other ranks are in the middle of gathering.
pub struct Sink {
    /// The set's path; none on a rank that writes nothing.
    set: Option<PathBuf>,
    writer: Arc<Mutex<Option<Writer>>>,
    /// The tensors of this rank's file that have not come yet, the last first.
    missing: Vec<Entry>,
    /// The tensors of each file.
    parts: Vec<Vec<Entry>>,
    share: Share,
}

impl Sink {
    /// Divides the tensors of a set (the path in the folder) among the writers, and starts this rank's file if it has
    /// any.
    pub fn create(set: &str, entries: Vec<Entry>, share: Share, files: &mut Files) -> Self {
        let lists = sharded::divide(entries, share.writers);
        let count = lists.iter().filter(|list| !list.is_empty()).count();
        let index = lists.iter().take(share.rank).filter(|list| !list.is_empty()).count();
        let mine = lists.get(share.rank).filter(|list| !list.is_empty()).cloned();
        let set = files.folder.map(|folder| folder.join(set));
        let writer = Arc::new(Mutex::new(None));
        let mut missing = Vec::new();
        if let Some(set) = &set {
            let part = |index| sharded::part_of(set, index, count);
            files.of_others.extend((0..count).filter(|&other| mine.is_none() || other != index).map(part));
            if let Some(entries) = mine {
                missing = entries.iter().rev().cloned().collect();
                let (path, writer) = (part(index), Arc::clone(&writer));
                files.queue.push(0, move || {
                    *writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(Writer::create(&path, entries)?);
                    Ok(())
                });
            }
        }
        let parts = lists.into_iter().filter(|list| !list.is_empty()).collect();
        Sink { set, writer, missing, parts, share }
    }

    /// Writes those of a unit's tensors that are this rank's, or queues copies of them.
    pub fn write(&mut self, files: &mut Files, tensors: impl FnOnce() -> Vec<(String, Tensor)>) {
        if self.missing.is_empty() {
            return;
        }
        for (name, tensor) in tensors() {
            files.phase.advance(1);
            let Some(entry) = self.missing.pop_if(|entry| entry.name == name) else { continue };
            let bytes = entry.bytes();
            files.queue.wait_for_room(bytes);
            let copy = if files.queue.is_background() { Values::copy_of } else { Values::of };
            let values = copy(&name, &tensor, entry.kind);
            let writer = Arc::clone(&self.writer);
            files.queue.push(bytes, move || {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                let writer = writer.as_mut().ok_or_else(|| Error::other(format!("tensor {name}: no file")))?;
                writer.write_values(&values?)
            });
        }
    }

    /// Completes this rank's file, and on rank 0 writes the index of several.
    pub fn finish(self, files: &mut Files) {
        let Sink { set, writer, parts, share, .. } = self;
        let Some(set) = set else { return };
        files.queue.push(0, move || {
            let writer = writer.lock().unwrap_or_else(PoisonError::into_inner).take();
            writer.map_or(Ok(()), Writer::finish)?;
            if share.rank == 0 && parts.len() > 1 {
                sharded::write_index(&set, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
            }
            Ok(())
        });
    }
}
