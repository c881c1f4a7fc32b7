//! Reads the corpus of the fuzz targets, and files that are damaged from it: nothing may panic, or take memory out of
//! proportion to the file.

#[path = "inputs.rs"]
mod inputs;

use inputs::TARGETS;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Counts the bytes that each thread holds. Memory that another thread frees makes its count too small, not too large.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that ends has no counters any more.
    let held = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        held.get()
    });
    if let Ok(held) = held {
        _ = PEAK.try_with(|peak| peak.set(peak.get().max(held)));
    }
}

// SAFETY: all memory is that of `System`, whose contract is passed on; the counters allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both exist while the bytes are copied.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// The most that reading a file may hold at a time.
fn limit(file: &[u8]) -> isize {
    (64 << 20) + 100 * file.len() as isize
}

/// A linear congruential generator (Knuth, MMIX): the same files on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }

    fn range(&mut self, n: usize) -> std::ops::Range<usize> {
        let start = self.below(n + 1);
        start..start + self.below((n - start).min(40) + 1)
    }
}

/// What is written into files: large and negative numbers in text and binary, brackets, characters that are cut.
const PIECES: &[&[u8]] = &[
    b"18446744073709551615",
    b"9223372036854775808",
    b"-1",
    b"1e999",
    b"null",
    b"[[[[[[[[",
    b"{\"a\":",
    b"\\ud800",
    b"\"",
    b"\n\n",
    b"\r",
    b",;\t",
    b"\xc3",
    b"\xef\xbb\xbf",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
];

/// Damages a file in one to three places.
fn damaged(file: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = file.to_vec();
    for _ in 0..=random.below(3) {
        let n = bytes.len();
        let place = random.range(n);
        match random.below(8) {
            0 => bytes.truncate(place.start),
            1 => drop(bytes.drain(place)),
            2 => {
                let again = bytes[place.clone()].to_vec();
                drop(bytes.splice(place.end..place.end, again));
            }
            3 | 4 if n > 0 => bytes[place.start % n] ^= 1 << random.below(8),
            5 if n > 0 => bytes[place.start % n] = random.below(256) as u8,
            kind => {
                // Inserted, or written over other bytes.
                let piece = PIECES[random.below(PIECES.len())];
                let end = if kind == 6 { place.start } else { n.min(place.start + piece.len()) };
                drop(bytes.splice(place.start..end, piece.iter().copied()));
            }
        }
    }
    bytes
}

/// The files of a target by name: its corpus, and those of `seeds.txt`.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let folder = tests.join("fuzz/corpus").join(target);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let lines = include_str!("seeds.txt").lines().filter_map(|line| line.split_once(' '));
    paths.extend(lines.filter(|(of, _)| *of == target).map(|(_, path)| tests.join("reference").join(path)));
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    };
    paths.into_iter().map(read).collect()
}

/// A file that fails is kept in `target/tmp`: reduce it, add it to the corpus of its target, and correct the reader.
#[test]
fn damaged_files_neither_panic_nor_take_much_memory() {
    /// Damaged files of each target, divided among its seeds; fewer where each builds a tokenizer.
    const ROUNDS: [usize; 2] = [100, 33];
    const TOKENIZERS: &[&str] =
        &["sentencepiece", "tiktoken", "tokenizer_config", "tokenizer_json", "vocab_json", "vocab_txt"];
    let dir = tempfile::tempdir().unwrap();
    let mut failed = Vec::new();
    for (target, read) in TARGETS {
        let folder = dir.path().join(target);
        fs::create_dir(&folder).unwrap();
        let mut check = |name: &str, file: &[u8]| {
            PEAK.set(HELD.get());
            let before = HELD.get();
            let ended = catch_unwind(AssertUnwindSafe(|| read(&folder, file)));
            let held = PEAK.get() - before;
            let why = match ended {
                Err(_) => "a panic".to_owned(),
                Ok(()) if held > limit(file) => format!("{} MiB for {} bytes", held >> 20, file.len()),
                Ok(()) => return,
            };
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}-{}", failed.len()));
            fs::write(&kept, file).unwrap();
            failed.push(format!("{target}, from {name}: {why}: {}", kept.display()));
        };
        let seeds = seeds(target);
        let rounds = ROUNDS[usize::from(TOKENIZERS.contains(target))].div_ceil(seeds.len());
        let mut random = Random(7);
        for (name, seed) in &seeds {
            check(name, seed);
            (0..rounds).for_each(|_| check(name, &damaged(seed, &mut random)));
        }
    }
    assert!(failed.is_empty(), "{} files:\n{}", failed.len(), failed.join("\n"));
}

/// The limit of memory can be exceeded: the allocator counts.
#[test]
fn memory_is_counted() {
    let before = HELD.get();
    PEAK.set(before);
    drop(std::hint::black_box(vec![1_u8; 65 << 20]));
    let mut grown = Vec::new();
    (0..1000).for_each(|i| grown.push(i));
    assert!(PEAK.get() - before > limit(&[]) && HELD.get() - before >= 4000);
    drop(grown);
    assert_eq!(HELD.get(), before);
}

/// Each target is built: a file of its own, with its name, and in the manifest.
#[test]
fn every_target_has_a_program() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for (target, _) in TARGETS {
        let path = format!("fuzz_targets/{target}.rs");
        let text = fs::read_to_string(folder.join(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(text.contains(&format!("inputs::fuzz({target:?}, bytes)")), "{path}");
        assert!(manifest.contains(&format!("path = {path:?}")), "tests/fuzz/Cargo.toml lacks {path}");
    }
    assert_eq!(fs::read_dir(folder.join("fuzz_targets")).unwrap().count(), TARGETS.len());
}
