//! The files of a set of tensors, which one rank or all write while all ranks gather.

use crate::checkpoint::sharded;
use crate::checkpoint::tensor_writer::{Entry, Writer};
use crate::error::Result;
use crate::observe::progress::Phase;
use std::path::PathBuf;
use tch::Tensor;

/// This rank among the ranks that write.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    pub rank: usize,
    pub writers: usize,
}

/// The files of a set, of which this rank writes at most one. It holds an error back until all units are gathered, since
/// the other ranks are in the middle of gathering.
pub struct Sink<'a> {
    /// The set's path; none on a rank that writes nothing.
    set: Option<PathBuf>,
    writer: Result<Option<Writer>>,
    /// The tensors of each file.
    parts: Vec<Vec<Entry>>,
    share: Share,
    phase: &'a Phase,
}

impl<'a> Sink<'a> {
    /// Divides the tensors among the writers, and starts this rank's file if it has any.
    pub fn create(set: Option<PathBuf>, entries: Vec<Entry>, share: Share, phase: &'a Phase) -> Self {
        let lists = sharded::divide(entries, share.writers);
        let count = lists.iter().filter(|list| !list.is_empty()).count();
        let index = lists.iter().take(share.rank).filter(|list| !list.is_empty()).count();
        let mine = lists.get(share.rank).filter(|list| !list.is_empty());
        let start =
            |(set, list): (&PathBuf, &Vec<Entry>)| Writer::create(&sharded::part_of(set, index, count), list.clone());
        let writer = set.as_ref().zip(mine).map(start).transpose();
        let parts = lists.into_iter().filter(|list| !list.is_empty()).collect();
        Sink { set, writer, parts, share, phase }
    }

    /// Writes those of a unit's tensors that are this rank's.
    pub fn write(&mut self, tensors: impl FnOnce() -> Vec<(String, Tensor)>) {
        let Ok(Some(writer)) = &mut self.writer else { return };
        let mut write = |(name, tensor): &(String, Tensor)| {
            self.phase.advance(1);
            if writer.expects(name) { writer.write(name, tensor) } else { Ok(()) }
        };
        if let Err(e) = tensors().iter().try_for_each(&mut write) {
            self.writer = Err(e);
        }
    }

    /// Completes this rank's file, and on rank 0 writes the index of several.
    ///
    /// # Errors
    /// The first error of this rank: its file, and the system error.
    pub fn finish(self) -> Result<()> {
        let Sink { set, writer, parts, share, .. } = self;
        writer?.map_or(Ok(()), Writer::finish)?;
        match set {
            Some(set) if share.rank == 0 && parts.len() > 1 => {
                sharded::write_index(&set, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
            }
            _ => Ok(()),
        }
    }
}
