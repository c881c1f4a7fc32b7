//! Counting the bytes of CPU tensors by use. The counters are per process: here nothing else allocates tensors.

use std::sync::{Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, Tensor};
use trainer::ffi::memory::{Use, during, install, reset_peaks, resize_storage, usage};

const FLOATS: (Kind, Device) = (Kind::Float, Device::Cpu);

/// The tests run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    install();
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the current bytes of one use.
fn held(what: Use) -> u64 {
    usage().current[what as usize]
}

#[test]
fn counts_by_use_and_gives_back() {
    let _turn = alone();
    let (weights, optimizer) = (held(Use::Weights), held(Use::Optimizer));
    let a = during(Use::Weights, || {
        let a = Tensor::zeros([1000], FLOATS);
        let b = during(Use::Optimizer, || Tensor::zeros([500], FLOATS));
        assert_eq!((held(Use::Weights) - weights, held(Use::Optimizer) - optimizer), (4000, 2000));
        drop(b);
        a
    });
    assert_eq!((held(Use::Weights) - weights, held(Use::Optimizer) - optimizer), (4000, 0));
    assert_eq!(a.data_ptr() as usize % 64, 0);
    // Freeing on another thread counts for the use of the allocation.
    std::thread::spawn(move || drop(a)).join().unwrap();
    assert_eq!(held(Use::Weights), weights);
    // A panic restores the use.
    let caught = std::panic::catch_unwind(|| during(Use::Weights, || panic!("on purpose")));
    assert!(caught.is_err());
    let _after = Tensor::zeros([1000], FLOATS);
    assert_eq!(held(Use::Weights), weights);
}

#[test]
fn peaks_are_of_each_use_and_of_the_sum() {
    let _turn = alone();
    reset_peaks();
    let start = usage();
    assert_eq!((start.current, start.at_total_peak), (start.peak, start.current));
    drop(during(Use::Gradients, || Tensor::zeros([3000], FLOATS)));
    let kept = during(Use::Communication, || Tensor::zeros([4000], FLOATS));
    let now = usage();
    let grew = |after: [u64; 5]| -> [u64; 5] { std::array::from_fn(|i| after[i] - start.current[i]) };
    assert_eq!(grew(now.peak), [0, 12000, 0, 0, 16000]);
    assert_eq!(grew(now.at_total_peak), [0, 0, 0, 0, 16000]);
    assert_eq!(now.total_peak - start.total_peak, 16000);
    drop(kept);
    reset_peaks();
    assert_eq!(usage().total_peak, start.total_peak);
}

#[test]
fn a_storage_counts_as_long_as_it_has_memory() {
    let _turn = alone();
    let before = held(Use::Weights);
    let flat = during(Use::Weights, || Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]));
    let view = flat.narrow(0, 2, 4).view([2, 2]);
    assert_eq!(held(Use::Weights), before + 24);
    resize_storage(&view, 0).unwrap();
    assert_eq!((held(Use::Weights), flat.numel()), (before, 6));
    resize_storage(&flat, 0).unwrap();
    during(Use::Weights, || resize_storage(&flat, 24)).unwrap();
    assert_eq!(held(Use::Weights), before + 24);
    drop((flat, view));
    assert_eq!(held(Use::Weights), before);
}
