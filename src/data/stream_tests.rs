use super::*;
use crate::data::Label;
use std::collections::BTreeSet;

/// Shards of these numbers of examples, read three at a time across shards; example i of shard s has the tokens [s, i].
struct Source {
    shards: Vec<u64>,
    shuffle: Shuffle,
    pass: u64,
    place: Place,
}

impl Iterator for Source {
    type Item = Result<Read>;

    fn next(&mut self) -> Option<Self::Item> {
        let order = self.shuffle.shards(self.pass, self.shards.len());
        let start = self.place;
        let mut examples = Vec::new();
        while examples.len() < 3 && self.place.shard < order.len() {
            let shard = order[self.place.shard];
            if self.place.offset < self.shards[shard] {
                let ids = vec![shard as u32, self.place.offset as u32];
                examples.push(Example::single(ids, vec![0; 2], Label::None));
                self.place.offset += 1;
            } else {
                self.place = Place { shard: self.place.shard + 1, offset: 0 };
            }
        }
        if examples.is_empty() {
            (self.pass, self.place) = (self.pass + 1, Place::default());
            return Some(Ok(Read::End));
        }
        let progress = self.place.shard as f64 / order.len() as f64;
        let weights = examples.iter().map(|example| example.ids[1] as f32).collect();
        let notes = if start == Place::default() { vec!["begun".to_owned()] } else { Vec::new() };
        Some(Ok(Read::Chunk(Chunk { place: start, examples, weights, progress, notes })))
    }
}

fn stream(shards: &[u64], shuffle: Shuffle, batch: usize, position: Position) -> Stream {
    let Position { pass, place, .. } = position;
    Stream::new(Source { shards: shards.to_vec(), shuffle, pass, place }, shuffle, batch, position).unwrap()
}

/// A batch as (pass, examples, position after it).
type Batch = (u64, Vec<Vec<u32>>, Position);

fn batch(stream: &mut Stream) -> Batch {
    let taken = stream.take().unwrap();
    let ids: Vec<Vec<u32>> = taken.examples.iter().map(|example| example.ids.clone()).collect();
    assert!(taken.weights.iter().zip(&ids).all(|(&weight, ids)| weight == ids[1] as f32));
    assert_eq!((taken.weights.len(), taken.numbers.len()), (ids.len(), ids.len()));
    (taken.pass, ids, taken.position)
}

fn batches(shards: &[u64], shuffle: Shuffle, size: usize, n: usize) -> Vec<Batch> {
    let mut stream = stream(shards, shuffle, size, Position::default());
    (0..n).map(|_| batch(&mut stream)).collect()
}

const SHARDS: [u64; 6] = [7, 0, 1, 12, 0, 5];

#[test]
fn each_example_is_taken_once_per_pass() {
    let all: BTreeSet<Vec<u32>> =
        SHARDS.iter().zip(0..).flat_map(|(&n, shard)| (0..n as u32).map(move |i| vec![shard, i])).collect();
    for (buffer, size) in [(0, 4), (1, 1), (2, 4), (5, 3), (25, 4), (1000, 4), (1000, 100), (6, 25)] {
        let found = batches(&SHARDS, Shuffle::new(3, buffer), size, 60);
        let per_pass = 25_usize.div_ceil(size);
        for (pass, of_pass) in found.chunks_exact(per_pass).enumerate() {
            assert!(of_pass.iter().all(|(found, ..)| *found == pass as u64), "buffer {buffer}, batches of {size}");
            let seen: Vec<Vec<u32>> = of_pass.iter().flat_map(|(_, ids, _)| ids.clone()).collect();
            assert_eq!((seen.len(), seen.iter().cloned().collect::<BTreeSet<_>>()), (25, all.clone()));
            assert_eq!(of_pass[per_pass - 1].1.len(), (25 - 1) % size + 1, "the rest of a pass is a batch");
        }
    }
}

#[test]
fn the_buffer_shuffles_and_follows_from_the_seed() {
    let order = |seed, buffer, pass: usize| -> Vec<Vec<u32>> {
        let found = batches(&[40, 40], Shuffle::new(seed, buffer), 80, pass + 1);
        found.into_iter().nth(pass).unwrap().1
    };
    let files: Vec<Vec<u32>> = (0..2).flat_map(|shard| (0..40).map(move |i| vec![shard, i])).collect();
    assert_eq!((order(1, 1, 0), order(1, 0, 3)), (files.clone(), files.clone()), "the order of the files");
    for buffer in [2, 10, 500] {
        let first = order(1, buffer, 0);
        assert_ne!(first, files);
        assert_eq!(first, order(1, buffer, 0));
        assert!(first != order(2, buffer, 0) && first != order(1, buffer, 1), "buffer {buffer}");
    }
    // An example comes at most as many places earlier as the buffer holds.
    let shards = Shuffle::new(1, 10).shards(0, 2);
    for (place, ids) in order(1, 10, 0).iter().enumerate() {
        let read = shards.iter().position(|&shard| shard as u32 == ids[0]).unwrap() * 40 + ids[1] as usize;
        assert!(read <= place + 10, "{ids:?} at {place}");
    }
}

#[test]
fn a_stream_continues_from_every_position() {
    for (buffer, size) in [(1, 4), (2, 1), (4, 3), (10, 6), (25, 4), (100, 4), (3, 100)] {
        let shuffle = Shuffle::new(7, buffer);
        let whole = batches(&SHARDS, shuffle, size, 40);
        for (done, (.., position)) in whole.iter().enumerate().take(36) {
            let mut resumed = stream(&SHARDS, shuffle, size, *position);
            let rest: Vec<Batch> = (0..4).map(|_| batch(&mut resumed)).collect();
            assert_eq!(rest, whole[done + 1..done + 5], "buffer {buffer}, batches of {size}, after {}", done + 1);
        }
    }
    // What is read again does not grow with what was read.
    let position = batches(&[5000], Shuffle::new(1, 4), 10, 400).pop().unwrap().2;
    assert_eq!((position.taken, position.arrived), (4000, 4004));
    assert!(position.place.offset > 3900 && position.first > 3900, "{position:?}");
}

#[test]
fn the_size_of_batches_does_not_change_the_order() {
    let order = |size, n| -> Vec<Vec<u32>> {
        batches(&SHARDS, Shuffle::new(5, 6), size, n).into_iter().flat_map(|(_, ids, _)| ids).collect()
    };
    assert_eq!(order(1, 50), order(25, 2));
    assert_eq!(order(4, 14), order(25, 2));
}

#[test]
fn epochs_count_passes_and_shards() {
    let mut stream = stream(&[4, 4, 4, 4], Shuffle::new(1, 1), 4, Position::default());
    let taken: Vec<(f64, usize)> = (0..5).map(|_| stream.take().unwrap()).map(|t| (t.epoch, t.notes.len())).collect();
    assert!(taken.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{taken:?}");
    assert_eq!((taken[3].0, taken[0].1, taken[4].1), (1.0, 1, 1));
}

#[test]
fn other_examples_than_before_are_an_error() {
    let shuffle = Shuffle::new(1, 4);
    let (.., position) = batches(&[20], shuffle, 5, 3).pop().unwrap();
    let error = stream(&[15], shuffle, 5, position).take().unwrap_err().to_string();
    assert!(error.contains("do not have the examples that they had"), "{error}");
    // In the rest of the buffer at the end of a pass.
    let (.., position) = batches(&[20], shuffle, 9, 2).pop().unwrap();
    assert_eq!(position.taken, 18);
    let error = stream(&[21], shuffle, 9, position).take().unwrap_err().to_string();
    assert!(error.contains("do not have the examples that they had"), "{error}");
    let error = stream(&[0, 0], shuffle, 9, Position::default()).take().unwrap_err().to_string();
    assert!(error.contains("a pass over all shards has no example"), "{error}");
}

#[test]
fn a_batch_is_a_data_set() {
    let like = Dataset::new([Example::single(vec![1], vec![0], Label::None)], Collation::NextToken, [3; 32]);
    let taken = stream(&[6], Shuffle::new(1, 1), 4, Position::default()).take().unwrap();
    assert_eq!((taken.pass, &*taken.numbers), (0, &[0, 1, 2, 3][..]));
    let dataset = taken.dataset(&like);
    assert_eq!((dataset.len(), dataset.ids(3), dataset.weight(3)), (4, &[0, 3][..], 3.0));
    assert_eq!(dataset.collation(), &Collation::NextToken);
}
