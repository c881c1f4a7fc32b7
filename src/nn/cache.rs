//! The KV cache: attention keys and values of earlier tokens, so that in generation each new token costs one token's
//! work (and attention to all earlier tokens).

use crate::data::ragged::{Bucket, Sequences, fill_in_front};
use crate::ffi::transfer;
use tch::{Device, Tensor};

/// Number of columns by which a rectangle grows.
const GROWTH: i64 = 16;

/// The KV cache of a batch's sequences in all blocks.
///
/// A pass over whole sequences fills the cache; every later pass adds one token to each ([`Cache::grow`]). Sequences
/// are left-padded, so that a new token is one more column.
#[derive(Debug)]
pub struct Cache {
    lengths: Vec<i64>,
    blocks: Vec<BlockCache>,
    device: Device,
}

/// The KV cache of one block.
#[derive(Debug)]
pub struct BlockCache {
    /// i64 `[sequences * longest]`: the source token of each place of the rectangle in the first pass.
    positions: Tensor,
    /// Keys and values of each self-attention of the block, in the order of its calls: `[sequences, capacity, width]`.
    own: Vec<[Tensor; 2]>,
    /// Tensors that are computed once, in the order of the calls: `[encoder's tokens, ..]`.
    constants: Vec<Tensor>,
    /// The next call of each kind in this pass.
    calls: [usize; 2],
}

impl Cache {
    /// Returns an empty cache for this many blocks; the first pass is over `sequences`.
    pub fn new(blocks: usize, sequences: &Sequences) -> Self {
        let positions = fill_in_front(sequences);
        let block = || BlockCache {
            positions: positions.shallow_clone(),
            own: Vec::new(),
            constants: Vec::new(),
            calls: [0; 2],
        };
        let blocks = (0..blocks).map(|_| block()).collect();
        Cache { lengths: sequences.lengths().to_vec(), blocks, device: positions.device() }
    }

    pub fn block(&mut self, block: usize) -> &mut BlockCache {
        &mut self.blocks[block]
    }

    /// Number of cached tokens of each sequence: the positions of the next tokens.
    pub fn lengths(&self) -> &[i64] {
        &self.lengths
    }

    /// Adds one token to each sequence; returns the sequences of the next pass, on the CPU.
    pub fn grow(&mut self) -> Sequences {
        let sequences = Sequences::next(&self.lengths);
        self.lengths.iter_mut().for_each(|length| *length += 1);
        sequences
    }

    /// Keeps these sequences, in this order; a sequence may occur several times or not at all.
    pub fn select(&mut self, sequences: &[usize]) {
        if sequences.iter().copied().eq(0..self.lengths.len()) {
            return;
        }
        let longest = |lengths: &[i64]| lengths.iter().copied().max().unwrap_or(0);
        let before = longest(&self.lengths);
        self.lengths = sequences.iter().map(|&i| self.lengths[i]).collect();
        // Removes columns that only the longest sequence had.
        let unused = before - longest(&self.lengths);
        let rows: Vec<i64> = sequences.iter().map(|&i| i as i64).collect();
        let rows = transfer::to_device(Tensor::from_slice(&rows), self.device);
        for kv in self.blocks.iter_mut().flat_map(|block| &mut block.own).flatten() {
            *kv = kv.narrow(1, unused, kv.size()[1] - unused).index_select(0, &rows);
        }
    }

    /// Appends the sequences of another cache of the same model, of a decoder without an encoder. Rectangles become as
    /// wide as the longest sequence.
    pub fn join(&mut self, other: Cache) {
        let longest = |lengths: &[i64]| lengths.iter().copied().max().unwrap_or(0);
        let (own, new) = (longest(&self.lengths), longest(&other.lengths));
        for (block, others) in self.blocks.iter_mut().zip(&other.blocks) {
            debug_assert!(others.constants.is_empty(), "an encoder's tokens cannot be joined");
            for (kv, others) in block.own.iter_mut().flatten().zip(others.own.iter().flatten()) {
                *kv = stacked([(&*kv, own), (others, new)]);
            }
        }
        self.lengths.extend(other.lengths);
    }

    /// Keeps these tokens of the encoder, i64 `[n]`.
    pub fn select_constants(&mut self, tokens: &Tensor) {
        for constant in self.blocks.iter_mut().flat_map(|block| &mut block.constants) {
            *constant = constant.index_select(0, tokens);
        }
    }
}

impl BlockCache {
    /// Starts a new pass.
    pub(super) fn begin(&mut self) {
        self.calls = [0; 2];
    }

    /// Returns the block's next once-computed tensor, if it exists.
    pub(super) fn constant(&mut self) -> Option<Tensor> {
        let known = self.constants.get(self.calls[1]).map(Tensor::shallow_clone);
        self.calls[1] += usize::from(known.is_some());
        known
    }

    pub(super) fn set_constant(&mut self, value: &Tensor) {
        self.constants.push(value.shallow_clone());
        self.calls[1] += 1;
    }

    /// Adds the keys and values `[T, width]` of the block's next self-attention; returns those of all tokens so far,
    /// `[sequences, longest, width]`, unless this is the first pass.
    pub(super) fn update(&mut self, kv: [&Tensor; 2], buckets: &[Bucket]) -> Option<[Tensor; 2]> {
        let call = self.calls[0];
        self.calls[0] += 1;
        let sequences = buckets.iter().map(|bucket| bucket.sequences).sum::<i64>();
        let [bucket] = buckets else { return self.fill(kv, sequences) };
        if !bucket.has_past() {
            return self.fill(kv, sequences);
        }
        let longest = bucket.keys().longest;
        let mut rectangles = self.own[call].iter_mut();
        Some(kv.map(|x| {
            let rectangle = rectangles.next().expect("keys and values");
            append(rectangle, x, longest);
            rectangle.narrow(1, 0, longest)
        }))
    }

    fn fill(&mut self, kv: [&Tensor; 2], sequences: i64) -> Option<[Tensor; 2]> {
        self.own.push(kv.map(|x| x.index_select(0, &self.positions).view([sequences, -1, x.size()[1]])));
        None
    }
}

/// Returns the used columns of rectangles one below another, aligned at the last column, with room to grow.
fn stacked(parts: [(&Tensor, i64); 2]) -> Tensor {
    let longest = parts.iter().map(|(_, columns)| *columns).max().unwrap_or(0);
    let rows = parts.iter().map(|(part, _)| part.size()[0]).sum::<i64>();
    let one = parts[0].0;
    let all = one.new_zeros([rows, longest + GROWTH, one.size()[2]], (one.kind(), one.device()));
    let mut row = 0;
    for (part, columns) in parts {
        let count = part.size()[0];
        let place = all.narrow(0, row, count).narrow(1, longest - columns, columns);
        place.shallow_clone().copy_(&part.narrow(1, 0, columns));
        row += count;
    }
    all
}

/// Writes `[sequences, width]` into column `longest - 1`, enlarging the rectangle if needed.
fn append(rectangle: &mut Tensor, column: &Tensor, longest: i64) {
    let (sequences, capacity, width) = rectangle.size3().expect("a rectangle of vectors");
    if longest > capacity {
        let wider = rectangle.new_zeros([sequences, longest + GROWTH, width], (rectangle.kind(), rectangle.device()));
        wider.narrow(1, 0, capacity).copy_(rectangle);
        *rectangle = wider;
    }
    rectangle.narrow(1, longest - 1, 1).copy_(&column.view([sequences, 1, width]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    fn column(values: &[f32]) -> Tensor {
        Tensor::from_slice(values).view([-1, 1])
    }

    fn rows(rectangle: &Tensor) -> Vec<Vec<f32>> {
        Vec::try_from(rectangle.squeeze_dim(2)).unwrap()
    }

    /// Sequences of 1 and 3 tokens, each token with its own value; then some steps, and the shorter sequence alone.
    #[test]
    fn cached_tokens_stay_in_order() {
        for steps in [1, GROWTH + 5, 2 * GROWTH + 10] {
            let first = Sequences::new(vec![1, 3]);
            let mut cache = Cache::new(1, &first);
            let kv = column(&[0.0, 100.0, 101.0, 102.0]);
            cache.block(0).begin();
            assert!(cache.block(0).update([&kv, &kv], first.buckets()).is_none());
            let step = |cache: &mut Cache, values: &[f32]| {
                let next = cache.grow();
                cache.block(0).begin();
                let [k, v] = cache.block(0).update([&column(values), &column(values)], next.buckets()).unwrap();
                assert!(k.equal(&v));
                rows(&k)
            };
            let mut seen = Vec::new();
            for i in 0..steps {
                seen = step(&mut cache, &[1.0 + i as f32, 103.0 + i as f32]);
            }
            let counted = |start: f32, n: i64| (0..n).map(move |i| start + i as f32).collect::<Vec<f32>>();
            assert_eq!(seen[1], counted(100.0, 3 + steps));
            assert_eq!(seen[0][2..], counted(0.0, 1 + steps));
            // The columns of the other sequence are removed; one sequence may be kept twice.
            cache.select(&[0, 0]);
            let all = counted(0.0, 2 + steps);
            assert_eq!(step(&mut cache, &[1.0 + steps as f32; 2]), [all.clone(), all]);
            assert_eq!(cache.lengths(), [steps + 2; 2]);
        }
    }

    /// Sequences join and leave between steps; each keeps its own tokens, whatever the lengths of the others.
    #[test]
    fn sequences_join_and_leave() {
        let filled = |lengths: &[i64], values: &[f32]| {
            let sequences = Sequences::new(lengths.to_vec());
            let mut cache = Cache::new(1, &sequences);
            cache.block(0).begin();
            assert!(cache.block(0).update([&column(values), &column(values)], sequences.buckets()).is_none());
            cache
        };
        let step = |cache: &mut Cache, values: &[f32]| -> Vec<Vec<f32>> {
            let next = cache.grow();
            cache.block(0).begin();
            let [k, _] = cache.block(0).update([&column(values), &column(values)], next.buckets()).unwrap();
            let lengths = cache.lengths().iter();
            rows(&k).into_iter().zip(lengths).map(|(row, &n)| row[row.len() - n as usize..].to_vec()).collect()
        };
        let mut cache = filled(&[1, 2], &[0.0, 10.0, 11.0]);
        assert_eq!(step(&mut cache, &[1.0, 12.0]), [vec![0.0, 1.0], vec![10.0, 11.0, 12.0]]);
        // A longer one, then a shorter one.
        cache.join(filled(&[5], &[20.0, 21.0, 22.0, 23.0, 24.0]));
        cache.join(filled(&[1], &[30.0]));
        assert_eq!(cache.lengths(), [2, 3, 5, 1]);
        let found = step(&mut cache, &[2.0, 13.0, 25.0, 31.0]);
        assert_eq!(found[0], [0.0, 1.0, 2.0]);
        assert_eq!(found[2], [20.0, 21.0, 22.0, 23.0, 24.0, 25.0]);
        assert_eq!((&found[1][..], &found[3][..]), (&[10.0, 11.0, 12.0, 13.0][..], &[30.0, 31.0][..]));
        cache.select(&[3, 0]);
        assert_eq!(step(&mut cache, &[32.0, 3.0]), [vec![30.0, 31.0, 32.0], vec![0.0, 1.0, 2.0, 3.0]]);
    }

    #[test]
    fn constants_are_computed_once_and_follow_their_tokens() {
        let sequences = Sequences::new(vec![1, 1]);
        let mut cache = Cache::new(1, &sequences);
        let constants = [[1, 2, 3], [4, 5, 6]].map(|values| Tensor::from_slice(&values));
        cache.block(0).begin();
        for constant in &constants {
            assert!(cache.block(0).constant().is_none());
            cache.block(0).set_constant(constant);
        }
        cache.select_constants(&Tensor::arange_start(1, 3, (Kind::Int64, Device::Cpu)));
        cache.block(0).begin();
        let found = [0, 1].map(|_| Vec::<i32>::try_from(cache.block(0).constant().unwrap()).unwrap());
        assert_eq!(found, [[2, 3], [5, 6]]);
    }
}
