//! Gathers a value of every rank on every rank.

use crate::comm::{Collective, Op};
use crate::error::{Context, Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::{Device, Kind, Tensor};

/// Size of the length field before each rank's text.
const PREFIX: usize = size_of::<u64>();

/// Returns every rank's `mine` in rank order.
///
/// # Errors
/// Errors of a collective, which name the missing rank.
pub fn gather<T: Serialize + DeserializeOwned>(comm: &dyn Collective, mine: &T, what: &str) -> Result<Vec<T>> {
    let text = serde_json::to_vec(mine)?;
    let mut longest = [text.len() as f64];
    comm.all_reduce_f64(&mut longest, Op::Max, what)?;
    let room = PREFIX + longest[0] as usize;
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes.resize(room, 0);
    let (shard, all) =
        (Tensor::from_slice(&bytes), Tensor::zeros([(room * comm.world()) as i64], (Kind::Uint8, Device::Cpu)));
    comm.start_all_gather(&shard, &all, what)?.wait()?;
    let mut bytes = vec![0; room * comm.world()];
    all.copy_data(&mut bytes, room * comm.world());
    let parts = bytes.chunks_exact(room).enumerate();
    parts
        .map(|(rank, part)| {
            let text =
                read(part).ok_or_else(|| Error::other(format!("{what}: rank {rank} sent an incomplete message")))?;
            serde_json::from_slice(text).context(format!("{what}: rank {rank}"))
        })
        .collect()
}

/// Reads the text after its length.
fn read(part: &[u8]) -> Option<&[u8]> {
    let (length, text) = part.split_first_chunk::<PREFIX>()?;
    text.get(..u64::from_le_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::threads;
    use std::time::Duration;

    #[test]
    fn texts_of_any_length_arrive() {
        let group = threads::group(3, Duration::from_secs(60));
        let texts = std::thread::scope(|scope| {
            let each = |comm: &std::sync::Arc<dyn Collective>| {
                let comm = comm.clone();
                scope.spawn(move || gather(&*comm, &"x".repeat(comm.rank() * 100), "texts").unwrap())
            };
            group.iter().map(each).collect::<Vec<_>>().into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
        });
        let wanted: Vec<String> = (0..3).map(|rank| "x".repeat(rank * 100)).collect();
        assert_eq!(texts, [wanted.clone(), wanted.clone(), wanted]);
    }
}
